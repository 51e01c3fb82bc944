func greeting() -> String { "from helper" }
