package main

import (
	"bytes"
	"fmt"
	"os"
)

func main() {
	own, err := os.ReadFile("/proc/self/exe")
	// What the go command writes into a program that it builds.
	fmt.Println(bytes.Contains(own, []byte("mod\tprogr"+"am")), err)
}
