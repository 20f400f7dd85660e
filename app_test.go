package websocketproxy

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// emptyStorage is a storage that forgets everything.
type emptyStorage struct{}

func (*emptyStorage) Lock(context.Context, string) error           { return nil }
func (*emptyStorage) Unlock(context.Context, string) error         { return nil }
func (*emptyStorage) Load(context.Context, string) ([]byte, error) { return nil, fs.ErrNotExist }
func (*emptyStorage) Store(context.Context, string, []byte) error  { return nil }

// Caddy cleans up without a stop where it fails after it has started all apps.
func TestStatesAreLeftWithoutAStop(t *testing.T) {
	const address = "stored.test:80"
	t.Cleanup(func() { operate(upstream.Ready, address) })
	isLookedAt := func() bool {
		s := upstream.State{State: upstream.Ready, By: "test", At: time.Now()}
		return process.operators.Set(t.Context(), address, s) == nil
	}
	for name, end := range map[string]func(a *statesApp) error{
		"stopped":                func(a *statesApp) error { return a.Stop() },
		"cleaned up":             func(a *statesApp) error { return a.Cleanup() },
		"stopped and cleaned up": func(a *statesApp) error { return errors.Join(a.Stop(), a.Cleanup()) },
	} {
		t.Run(name, func(t *testing.T) {
			a := &statesApp{storage: new(emptyStorage), log: zap.NewNop()}
			if err := a.Start(); err != nil {
				t.Fatal(err)
			}
			if !isLookedAt() {
				t.Error("the storage is not looked at")
			}
			if err := end(a); err != nil {
				t.Error(err)
			}
			if isLookedAt() {
				t.Error("the storage is still looked at")
			}
		})
	}
	if err := new(statesApp).Cleanup(); err != nil {
		t.Errorf("without a start: %v", err)
	}
}
