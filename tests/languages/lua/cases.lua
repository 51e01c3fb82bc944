local cases = {
  echo = function() io.write(io.read("a")) end,
  args = function() for index = 2, #arg do print("[" .. arg[index] .. "]") end end,
  exit = function() os.exit(3) end,
  stderr = function() print("to stdout") io.stderr:write("to stderr\n") end,
  unicode = function() print("žluťoučký 你好 🦀") end,
  output = function() for _ = 1, 10000 do print(("x"):rep(99)) end end,
  uncaught = function() error("corpus failure") end,
  memory = function()
    local hoard = {}
    while true do hoard[#hoard + 1] = ("x"):rep(1 << 20) .. #hoard end
  end,
  loop = function() while true do end end,
  -- Lua has coroutines only.
  threads = function()
    local total = 0
    for _ = 1, 4 do
      local add = coroutine.wrap(function() for n = 1, 1000 do coroutine.yield(n) end end)
      for _ = 1, 1000 do total = total + add() end
    end
    print(total)
  end,
  missing = function() print(io.open("absent.txt") and "there" or "missing") end,
  workdir = function()
    local out = assert(io.open("out.txt", "w"))
    out:write("written")
    out:close()
    print(assert(io.open("out.txt")):read("a"))
  end,
}
cases[arg[1]]()
