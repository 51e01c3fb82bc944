def greeting():
    return "from helper"
