function from() { return "from helper" }
