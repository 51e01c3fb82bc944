fun greeting() = "from helper"
