import java.io.File
import java.io.FileNotFoundException
import kotlin.concurrent.thread
import kotlin.system.exitProcess

fun main(words: Array<String>) {
    val rest = words.drop(1)
    when (words[0]) {
        "echo" -> System.`in`.copyTo(System.out)
        "args" -> rest.forEach { println("[$it]") }
        "exit" -> exitProcess(3)
        "stderr" -> {
            println("to stdout")
            System.err.println("to stderr")
        }
        "unicode" -> println("žluťoučký 你好 🦀")
        "output" -> repeat(10_000) { println("x".repeat(99)) }
        "uncaught" -> error("corpus failure")
        "memory" -> {
            val hoard = mutableListOf<ByteArray>()
            while (true) hoard += ByteArray(1 shl 20)
        }
        "loop" -> while (true) Thread.onSpinWait()
        "threads" -> {
            val sums = IntArray(4)
            (0..3).map { index -> thread { sums[index] = (1..1000).sum() } }.forEach(Thread::join)
            println(sums.sum())
        }
        "missing" -> try {
            File("absent.txt").readText()
        } catch (error: FileNotFoundException) {
            println("missing")
        }
        "workdir" -> {
            File("out.txt").writeText("written")
            println(File("out.txt").readText())
        }
    }
}
