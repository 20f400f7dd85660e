// Command report reads what `go test -json` writes: go test -json | report FILE.
// It prints a line for each package and what failed tests have written, and
// appends to FILE a line "package test: reason" for each test that was skipped.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
)

// event is one of test2json, or of the build.
type event struct {
	Action, Package, Test, Output string
}

type name struct{ pkg, test string }

func main() {
	log.SetFlags(0)
	skipped, err := os.OpenFile(os.Args[1], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		log.Fatal(err)
	}
	written := make(map[name][]string)
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			handle(line, written, skipped)
		}
		if err != nil {
			break
		}
	}
	if err := skipped.Close(); err != nil {
		log.Fatal(err)
	}
}

func handle(line string, written map[name][]string, skipped *os.File) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil {
		fmt.Print(line)
		return
	}
	at := name{e.Package, e.Test}
	switch {
	case e.Action == "output" && e.Test != "":
		written[at] = append(written[at], e.Output)
	case e.Action == "output", e.Action == "build-output":
		if e.Output != "PASS\n" && !strings.Contains(e.Output, "[no test files]") {
			fmt.Print(e.Output)
		}
	case e.Action == "skip" && e.Test != "":
		fmt.Fprintf(skipped, "%s %s: %s\n", e.Package, e.Test, reason(written[at]))
		delete(written, at)
	case e.Action == "pass":
		delete(written, at)
	case e.Action == "fail" && e.Test != "":
		fmt.Print(strings.Join(written[at], ""))
		delete(written, at)
	case e.Action == "fail":
		for other, text := range written { // that did not come to an end
			if other.pkg == e.Package {
				fmt.Print(strings.Join(text, ""))
				delete(written, other)
			}
		}
	}
}

// reason is what a test has said last before it was skipped.
func reason(written []string) string {
	for _, line := range slices.Backward(written) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "--- ") && !strings.HasPrefix(line, "=== ") {
			return line
		}
	}
	return "it does not say why"
}
