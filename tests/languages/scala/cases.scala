import java.io.{FileInputStream, FileNotFoundException}
import java.nio.file.{Files, Path}
import scala.collection.mutable
import scala.concurrent.{Await, Future}
import scala.concurrent.ExecutionContext.Implicits.global
import scala.concurrent.duration.Duration

@main def cases(name: String, rest: String*): Unit = name match {
  case "echo" => System.in.transferTo(System.out)
  case "args" => rest.foreach(arg => println(s"[$arg]"))
  case "exit" => sys.exit(3)
  case "stderr" =>
    println("to stdout")
    Console.err.println("to stderr")
  case "unicode" => println("žluťoučký 你好 🦀")
  case "output" => for (_ <- 1 to 10000) println("x" * 99)
  case "uncaught" => throw new IllegalStateException("corpus failure")
  case "memory" =>
    val hoard = mutable.ListBuffer.empty[Array[Byte]]
    while (true) hoard += new Array[Byte](1 << 20)
  case "loop" => while (true) Thread.onSpinWait()
  case "threads" =>
    val sums = Future.sequence((1 to 4).map(_ => Future((1 to 1000).sum)))
    println(Await.result(sums, Duration.Inf).sum)
  case "missing" =>
    try new FileInputStream("absent.txt")
    catch { case _: FileNotFoundException => println("missing") }
  case "workdir" =>
    Files.writeString(Path.of("out.txt"), "written")
    println(Files.readString(Path.of("out.txt")))
}
