package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
)

func main() {
	name, rest := os.Args[1], os.Args[2:]
	switch name {
	case "echo":
		io.Copy(os.Stdout, os.Stdin)
	case "args":
		for _, arg := range rest {
			fmt.Printf("[%s]\n", arg)
		}
	case "exit":
		os.Exit(3)
	case "stderr":
		fmt.Println("to stdout")
		fmt.Fprintln(os.Stderr, "to stderr")
	case "unicode":
		fmt.Println("žluťoučký 你好 🦀")
	case "output":
		out := bufio.NewWriter(os.Stdout)
		defer out.Flush()
		for range 10_000 {
			fmt.Fprintln(out, strings.Repeat("x", 99))
		}
	case "uncaught":
		panic("corpus failure")
	case "memory":
		for hoard := [][]byte{}; ; {
			hoard = append(hoard, []byte(strings.Repeat("x", 1<<20)))
		}
	case "loop":
		for {
		}
	case "threads":
		var group sync.WaitGroup
		sums := make([]int, 4)
		for index := range sums {
			group.Go(func() {
				for n := 1; n <= 1000; n++ {
					sums[index] += n
				}
			})
		}
		group.Wait()
		fmt.Println(sums[0] + sums[1] + sums[2] + sums[3])
	case "missing":
		if _, err := os.ReadFile("absent.txt"); errors.Is(err, fs.ErrNotExist) {
			fmt.Println("missing")
		}
	case "workdir":
		if err := os.WriteFile("out.txt", []byte("written"), 0o644); err != nil {
			panic(err)
		}
		text, _ := os.ReadFile("out.txt")
		fmt.Println(string(text))
	}
}
