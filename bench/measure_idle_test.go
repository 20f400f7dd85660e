package main

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestIdleTunnelsHaveAValueForEveryRow(t *testing.T) {
	s := ownSubject(t, startTestBackend(t))
	l := idleLoad{sizes: []int{5, 10}, longSettle: time.Millisecond, watch: time.Millisecond}
	values, err := measureIdle(t.Context(), s, l)
	if err != nil {
		t.Fatal(err)
	}
	if len(values) != len(l.rows()) {
		t.Fatalf("got %v, want a value for each of %v", values, l.rows())
	}
	if fds := values[3]; fds < 1 {
		t.Errorf("got %v descriptors per tunnel, want at least one", fds)
	}
}

func TestTunnelsBeyondTheCapacityAreNoNumber(t *testing.T) {
	const capacity = 7
	listener := testListener(t)
	go func() {
		for range capacity {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveBackend(conn, false, newDesk())
		}
		listener.Close()
	}()
	s := ownSubject(t, listener.Addr().String())
	l := idleLoad{sizes: []int{5, 10}, watch: time.Millisecond}
	values, err := measureIdle(t.Context(), s, l)
	full, ok := errors.AsType[*capacityError](err)
	if !ok {
		t.Fatalf("got error %v, want one about the capacity", err)
	}
	// Nobody says which of the last connects was still accepted.
	if full.held < 5 || full.held > capacity || full.wanted != 10 {
		t.Errorf("got %+v", full)
	}
	if len(values) != len(l.rows()) {
		t.Fatalf("got %v, want a value for each of %v", values, l.rows())
	}
	for i, unknown := range []bool{false, true, false, true} {
		if math.IsNaN(values[i]) != unknown {
			t.Errorf("%s: got %v", l.rows()[i].name, values[i])
		}
	}
}

func TestMemoryAfterMessagesIsMeasured(t *testing.T) {
	values, err := measureAfterMessages(t.Context(), ownSubject(t, startTestBackend(t)), 5)
	if err != nil {
		t.Fatal(err)
	}
	if len(values) != 1 {
		t.Errorf("got %v, want one value", values)
	}
}

func TestGrowthHasAValueForEveryRow(t *testing.T) {
	m := growthMeasurement([]int{3, 6})
	values, err := m.run(t.Context(), ownSubject(t, startTestBackend(t)))
	if err != nil {
		t.Fatal(err)
	}
	if len(values) != len(m.rows) {
		t.Fatalf("got %v, want a value for each of %v", values, m.rows)
	}
	if values[0] < 1 {
		t.Errorf("got %v MiB without tunnels, want at least one", values[0])
	}
}

// ownSubject takes this process for the proxy whose costs are measured, and
// holds the turn.
func ownSubject(t *testing.T, addr string) subject {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	own, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	turn := new(sync.Mutex)
	turn.Lock()
	return subject{
		proxy:  &proxy{name: "test", cmd: &exec.Cmd{Process: own}},
		target: target{addr: addr},
		turn:   turn,
	}
}
