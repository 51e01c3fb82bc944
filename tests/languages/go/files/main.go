package main

import (
	"fmt"

	"program/helper"
)

func main() {
	fmt.Println(helper.Greeting())
}
