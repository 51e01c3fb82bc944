import sys
import threading

case, rest = sys.argv[1], sys.argv[2:]
if case == "echo":
    sys.stdout.write(sys.stdin.read())
elif case == "args":
    for arg in rest:
        print(f"[{arg}]")
elif case == "exit":
    sys.exit(3)
elif case == "stderr":
    print("to stdout")
    print("to stderr", file=sys.stderr)
elif case == "unicode":
    print("žluťoučký 你好 🦀")
elif case == "output":
    for _ in range(10_000):
        print("x" * 99)
elif case == "uncaught":
    raise ValueError("corpus failure")
elif case == "memory":
    hoard = []
    while True:
        hoard.append(bytearray(1 << 20))
elif case == "loop":
    while True:
        pass
elif case == "threads":
    sums = [0] * 4

    def add(index):
        sums[index] = sum(range(1, 1001))

    threads = [threading.Thread(target=add, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(sums))
elif case == "missing":
    try:
        open("absent.txt")
    except FileNotFoundError:
        print("missing")
elif case == "workdir":
    with open("out.txt", "w") as file:
        file.write("written")
    print(open("out.txt").read())
