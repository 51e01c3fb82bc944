package main

func main() {
	var broken int = "text"
}
