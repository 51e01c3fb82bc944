name, *rest = ARGV
ARGV.clear
case name
when "echo" then $stdout.write($stdin.read)
when "args" then rest.each { |arg| puts "[#{arg}]" }
when "exit" then exit 3
when "stderr"
  puts "to stdout"
  warn "to stderr"
when "unicode" then puts "žluťoučký 你好 🦀"
when "output" then 10_000.times { puts "x" * 99 }
when "uncaught" then raise "corpus failure"
when "memory"
  hoard = []
  loop { hoard << "x" * (1 << 20) }
when "loop" then loop {}
when "threads" then puts 4.times.map { Thread.new { (1..1000).sum } }.sum(&:value)
when "missing"
  begin
    File.read("absent.txt")
  rescue Errno::ENOENT
    puts "missing"
  end
when "workdir"
  File.write("out.txt", "written")
  puts File.read("out.txt")
end
