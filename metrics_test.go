package websocketproxy

import (
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// counted is what a metric has for a handler and an upstream, of all that else is told apart.
func counted(tb testing.TB, name, handler, upstream string) (n float64) {
	tb.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(process.metrics)
	all, err := registry.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, family := range all {
		for _, m := range family.GetMetric() {
			of := make(map[string]string)
			for _, l := range m.GetLabel() {
				of[l.GetName()] = l.GetValue()
			}
			if family.GetName() == "caddy_websocket_proxy_"+name && of["handler"] == handler && of["upstream"] == upstream {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

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
