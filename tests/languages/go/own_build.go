package main

import (
	"fmt"
	"runtime/debug"
)

func main() {
	build, ok := debug.ReadBuildInfo()
	fmt.Println(ok, ok && build.Main.Path == "program")
}
