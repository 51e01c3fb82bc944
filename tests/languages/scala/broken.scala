@main def broken(): Unit = { val number: Int = "text" }
