BEGIN {
    name = ARGV[1]
    if (name == "echo") { while ((getline line < "-") > 0) print line }
    else if (name == "args") { for (i = 2; i < ARGC; i++) print "[" ARGV[i] "]" }
    else if (name == "exit") exit 3
    else if (name == "stderr") { print "to stdout"; print "to stderr" > "/dev/stderr" }
    else if (name == "unicode") print "žluťoučký 你好 🦀"
    else if (name == "output") { row = sprintf("%099d", 1); for (i = 0; i < 10000; i++) print row }
    # AWK has no exceptions.
    else if (name == "uncaught") fail("corpus failure")
    else if (name == "memory") { row = sprintf("%1048576d", 0); while (1) hoard[n++] = row n }
    else if (name == "loop") while (1) {}
    # Nor threads: four processes.
    else if (name == "threads") {
        for (i = 0; i < 4; i++) {
            command = "seq 1 1000 | awk '{ sum += $1 } END { print sum }' # " i
            command | getline part
            close(command)
            sum += part
        }
        print sum
    }
    else if (name == "missing") print ((getline line < "absent.txt") < 0 ? "missing" : "there")
    else if (name == "workdir") {
        print "written" > "out.txt"
        close("out.txt")
        getline line < "out.txt"
        print line
    }
    exit
}

function fail(message) {
    print message > "/dev/stderr"
    exit 1
}
