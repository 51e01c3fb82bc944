package helper

// Greeting is what the program prints.
func Greeting() string { return "from helper" }
