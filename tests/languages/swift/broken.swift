let number: Int = "broken"
