[name | rest] = System.argv()

defmodule Cases do
  def hoard(list), do: hoard([:binary.copy(<<1>>, 1_048_576) | list])
  def loop(n), do: loop(n + 1)
end

case name do
  "echo" -> IO.write(IO.read(:stdio, :eof))
  "args" -> Enum.each(rest, &IO.puts("[#{&1}]"))
  "exit" -> System.halt(3)
  "stderr" ->
    IO.puts("to stdout")
    IO.puts(:stderr, "to stderr")
  "unicode" -> IO.puts("žluťoučký 你好 🦀")
  "output" -> IO.write(String.duplicate(String.duplicate("x", 99) <> "\n", 10_000))
  "uncaught" -> raise "corpus failure"
  "memory" -> Cases.hoard([])
  "loop" -> Cases.loop(0)
  "threads" ->
    1..4 |> Enum.map(fn _ -> Task.async(fn -> Enum.sum(1..1000) end) end) |> Task.await_many() |> Enum.sum() |> IO.puts()
  "missing" ->
    {:error, :enoent} = File.read("absent.txt")
    IO.puts("missing")
  "workdir" ->
    File.write!("out.txt", "written")
    IO.puts(File.read!("out.txt"))
end
