package websocketproxy

import (
	"errors"
	"testing"

	"go.uber.org/zap"
)

// Caddy cleans up without a stop where it fails after it has started all apps.
func TestStatesAreLeftWithoutAStop(t *testing.T) {
	sharers := func() int {
		operators.mu.Lock()
		defer operators.mu.Unlock()
		return len(operators.sharers)
	}
	before := sharers()
	for name, end := range map[string]func(a *statesApp) error{
		"stopped":                func(a *statesApp) error { return a.Stop() },
		"cleaned up":             func(a *statesApp) error { return a.Cleanup() },
		"stopped and cleaned up": func(a *statesApp) error { return errors.Join(a.Stop(), a.Cleanup()) },
	} {
		t.Run(name, func(t *testing.T) {
			a := &statesApp{storage: newFakeStorage(), log: zap.NewNop()}
			if err := a.Start(); err != nil {
				t.Fatal(err)
			}
			if n := sharers(); n != before+1 {
				t.Errorf("%d storages are looked at, want %d", n, before+1)
			}
			if err := end(a); err != nil {
				t.Error(err)
			}
			if n := sharers(); n != before {
				t.Errorf("%d storages are looked at afterwards, want %d", n, before)
			}
		})
	}
	if err := new(statesApp).Cleanup(); err != nil {
		t.Errorf("without a start: %v", err)
	}
}
