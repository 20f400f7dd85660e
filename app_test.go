package websocketproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"

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

// Modules of reverse_proxy may be provisioned before the handlers that they ask.
func TestNamesThatNoHandlerHasAreTold(t *testing.T) {
	for name, want := range map[string]int{"chat": 0, "caht": 1} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { expectNothingHeld(t) })
			own, err := caddy.ProvisionContext(new(caddy.Config)) // others have handlers in that of newContext
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := caddy.NewContext(own)
			defer cancel()
			for _, module := range []string{"upstreams.websocket_proxy", "selection_policies.websocket_proxy"} {
				if _, err := ctx.LoadModuleByID("http.reverse_proxy."+module, json.RawMessage(`{"pool": "`+name+`"}`)); err != nil {
					t.Fatal(err)
				}
			}
			h := &Handler{Name: "chat", Upstreams: upstreams("127.0.0.1:1")}
			if err := h.Provision(ctx); err != nil {
				t.Fatal(err)
			}
			mod, err := ctx.App(statesAppID)
			app, ok := mod.(*statesApp)
			if !ok {
				t.Fatal(mod, err)
			}
			core, logs := observer.New(zapcore.WarnLevel)
			app.log, app.storage = zap.New(core), new(emptyStorage)
			if err := app.Start(); err != nil {
				t.Fatal(err)
			}
			told := logs.FilterMessage("reverse_proxy asks for upstreams that there are not, and answers 503").All()
			if len(told) != want || want > 0 && !strings.Contains(fmt.Sprint(told[0].ContextMap()["error"]), "write `name caht`") {
				t.Errorf("told are %v, want %d", told, want)
			}
			if err := errors.Join(app.Stop(), h.Cleanup()); err != nil {
				t.Error(err)
			}
		})
	}
}
