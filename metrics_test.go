package websocketproxy

import (
	"regexp"
	"strings"
	"testing"
)

// TestEveryCauseIsCounted compares the causes that there are with those that are shown
// with zero before the first one.
func TestEveryCauseIsCounted(t *testing.T) {
	counted := make(map[string]bool)
	for _, all := range causes {
		for _, why := range all {
			counted[string(why)] = true
		}
	}
	for _, found := range regexp.MustCompile(`\bcause += cause\("(\w+)"\)|\bcause = "(\w+)"`).FindAllStringSubmatch(readFile(t, "refusal.go"), -1) {
		if why := found[1] + found[2]; !counted[why] {
			t.Errorf("the cause %s is not in the list in metrics.go", why)
		} else {
			delete(counted, why)
		}
	}
	for why := range counted {
		t.Errorf("the cause %s is none", why)
	}
}

// TestEveryReasonIsCounted does the same for reasons.
func TestEveryReasonIsCounted(t *testing.T) {
	source := readFile(t, "internal/tunnel/reason.go")
	_, list, _ := strings.Cut(source, "var Reasons = ")
	list, _, _ = strings.Cut(list, "\n}")
	for _, found := range regexp.MustCompile(`(?m)^\t(\w+) +Reason = "`).FindAllStringSubmatch(source, -1) {
		if !regexp.MustCompile(`\b` + found[1] + `\b`).MatchString(list) {
			t.Errorf("the reason %s is not in tunnel.Reasons", found[1])
		}
	}
}
