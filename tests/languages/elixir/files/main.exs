Code.require_file("helper.ex")

IO.puts(Helper.greeting())
