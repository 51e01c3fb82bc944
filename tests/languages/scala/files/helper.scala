def greeting(): String = "from helper"
