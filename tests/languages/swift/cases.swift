import Foundation

struct Failure: Error, CustomStringConvertible {
    let description: String
}

let name = CommandLine.arguments[1]
let rest = CommandLine.arguments.dropFirst(2)
switch name {
case "echo":
    while let line = readLine(strippingNewline: false) { print(line, terminator: "") }
case "args":
    for arg in rest { print("[\(arg)]") }
case "exit":
    exit(3)
case "stderr":
    print("to stdout")
    FileHandle.standardError.write("to stderr\n".data(using: .utf8)!)
case "unicode":
    print("žluťoučký 你好 🦀")
case "output":
    for _ in 0..<10_000 { print(String(repeating: "x", count: 99)) }
case "uncaught":
    throw Failure(description: "corpus failure")
case "memory":
    var hoard: [[UInt8]] = []
    while true { hoard.append([UInt8](repeating: 1, count: 1 << 20)) }
case "loop":
    while true {}
case "threads":
    let lock = NSLock()
    nonisolated(unsafe) var total = 0
    DispatchQueue.concurrentPerform(iterations: 4) { _ in
        let sum = (1...1000).reduce(0, +)
        lock.lock()
        total += sum
        lock.unlock()
    }
    print(total)
case "missing":
    print(FileManager.default.fileExists(atPath: "absent.txt") ? "there" : "missing")
case "workdir":
    try "written".write(toFile: "out.txt", atomically: true, encoding: .utf8)
    print(try String(contentsOfFile: "out.txt", encoding: .utf8))
default:
    exit(1)
}
