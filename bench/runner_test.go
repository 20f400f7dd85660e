package main

import (
	"context"
	"regexp"
	"strings"
	"testing"
)

func TestPeersThatFailAreToldBelowTheTable(t *testing.T) {
	r := newTestRunner(t)
	m := measurement{rows: []row{{"wanted", "s"}, {"unasked", "s"}}}
	r.measurements = []measurement{m}
	if err := r.runAll(t.Context()); err == nil || !strings.Contains(err.Error(), "process ended") {
		t.Errorf("got error %v", err)
	}
	for _, want := range []string{"| wanted | s | failed |\n", "\n- websocket_proxy failed, once at least: wanted\n"} {
		if got := r.report(); !strings.Contains(got, want) || strings.Contains(got, "unasked") {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestInterruptedRunsSaySo(t *testing.T) {
	r := newTestRunner(t)
	r.measurements = []measurement{{rows: []row{{"wanted", "s"}}}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.runAll(ctx); err == nil || !strings.Contains(r.report(), "\n- interrupted") {
		t.Errorf("got error %v, and:\n%s", err, r.report())
	}
}

// newTestRunner returns one whose only peer ends at once.
func newTestRunner(t *testing.T) *runner {
	t.Helper()
	cert, _ := testCertificate(t)
	r := &runner{
		options:  options{runs: 1, quick: true, rowFilter: regexp.MustCompile("wanted")},
		workshop: workshop{dir: t.TempDir(), cert: cert},
		peers:    []peer{{name: ourName, binary: "/bin/false", template: floorTemplate}},
		results:  make(results),
	}
	return r
}
