package websocketproxy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/cluster"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestWhatHappensToStatesIsLogged(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	until := at.Add(time.Hour)
	full := upstream.State{State: upstream.Drain, By: "ann", At: at, Expires: until}
	for name, test := range map[string]struct {
		happens func(stateLog)
		level   zapcore.Level
		message string
		fields  map[string]any
	}{
		"found": {
			func(l stateLog) {
				l.Found(map[string]upstream.State{"b:1": full, "a:1": {State: upstream.Evict, At: at}, "c:1": {State: upstream.Maint, At: at}})
			},
			zap.InfoLevel, "upstream states found",
			map[string]any{"states": []any{
				"a:1 evict since 2026-01-02T03:04:05Z",
				"b:1 drain since 2026-01-02T03:04:05Z by ann until 2026-01-02T04:04:05Z",
				"c:1 maint since 2026-01-02T03:04:05Z",
			}},
		},
		"set here": {
			func(l stateLog) { l.Changed(cluster.Change{Address: "a:1", State: full, Cause: cluster.SetHere}) },
			zap.InfoLevel, "upstream state changed",
			map[string]any{
				"upstream": "a:1", "state": "drain", "by": "ann", "at": at, "expires": until, "cause": "set here",
			},
		},
		"set elsewhere, by nobody": {
			func(l stateLog) {
				l.Changed(cluster.Change{Address: "a:1", State: upstream.State{State: upstream.Ready, At: at}, Cause: cluster.SetElsewhere})
			},
			zap.InfoLevel, "upstream state changed",
			map[string]any{"upstream": "a:1", "state": "ready", "at": at, "cause": "set at another instance"},
		},
		"expired": {
			func(l stateLog) { l.Changed(cluster.Change{Address: "a:1", State: full, Cause: cluster.Expired}) },
			zap.InfoLevel, "upstream state changed",
			map[string]any{
				"upstream": "a:1", "state": "drain", "by": "ann", "at": at, "expires": until, "cause": "expired",
			},
		},
		"dropped": {
			func(l stateLog) {
				l.Changed(cluster.Change{Address: "a:1", State: upstream.State{State: upstream.Ready}, Cause: cluster.Unused})
			},
			zap.InfoLevel, "upstream state changed",
			map[string]any{"upstream": "a:1", "state": "ready", "cause": "no configuration has had it for 24h0m0s"},
		},
		"trouble": {
			func(l stateLog) { l.Fails(errors.New("no space left")) },
			zap.WarnLevel, "the storage of upstream states fails; the last known states hold, and are stored when it works again",
			map[string]any{"error": "no space left"},
		},
		"no trouble any more": {
			stateLog.Works,
			zap.InfoLevel, "the storage works again; states of upstreams are stored and shared",
			map[string]any{},
		},
		"times ahead": {
			func(l stateLog) { l.Ahead([]string{"b:1", "a:1"}) },
			zap.WarnLevel, "times in the storage of upstream states lie too far ahead and are ignored; " +
				"is a clock wrong here or at another instance?",
			map[string]any{"upstreams": []any{"a:1", "b:1"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zapcore.InfoLevel)
			test.happens(stateLog{zap.New(core)})
			line := logs.All()[0]
			if logs.Len() != 1 || line.Level != test.level || line.Message != test.message {
				t.Errorf("%d lines, the first is %v", logs.Len(), line)
			}
			if got, want := fmt.Sprint(line.ContextMap()), fmt.Sprint(test.fields); got != want {
				t.Errorf("the fields are %s, want %s", got, want)
			}
		})
	}
}

func TestWhatIsStoredIsLoggedPrintable(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	l := stateLog{zap.New(core)}
	address := "10.0.0.9:1" + testbed.Hostile
	s := upstream.State{State: upstream.Drain, By: "eve" + testbed.Hostile, At: time.Now()}
	l.Found(map[string]upstream.State{address: s})
	l.Changed(cluster.Change{Address: address, State: s, Cause: cluster.SetElsewhere})
	l.Ahead([]string{address})
	l.Fails(errors.New("reading " + testbed.Hostile))
	if logs.Len() != 4 {
		t.Errorf("there are %d lines, want 4", logs.Len())
	}
	for _, line := range logs.All() {
		for field, value := range line.ContextMap() {
			if text := fmt.Sprint(value); !printable.Is(text) {
				t.Errorf("the field %s of %q is %q", field, line.Message, text)
			}
		}
	}
}

// TestTheInstancesIDMayBeInTheMaking has a file of another writer that is not
// written yet, and then another id in it.
func TestTheInstancesIDMayBeInTheMaking(t *testing.T) {
	for _, name := range []string{"XDG_DATA_HOME", "HOME", "AppData"} {
		t.Setenv(name, t.TempDir())
	}
	synctest.Test(t, func(t *testing.T) {
		dir := caddy.AppDataDir()
		write := func(id string) {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "instance.uuid"), []byte(id), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(want string) {
			t.Helper()
			id, host, err := thisInstance(t.Context())
			if name, nerr := os.Hostname(); nerr != nil || err != nil || id != want || host != name {
				t.Errorf("it is %s on %s (%v), want %s on %s (%v)", id, host, err, want, name, nerr)
			}
		}
		const first, final = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
		write("")
		go func() {
			time.Sleep(100 * time.Millisecond)
			write(first)
		}()
		expect(first)
		write(final)
		expect(final)
		write("broken")
		if id, _, err := thisInstance(t.Context()); err == nil || strings.Contains(id, "2") {
			t.Errorf("without an id, it is %q (%v)", id, err)
		}
	})
}
