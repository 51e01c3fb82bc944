def greeting = "from helper"
