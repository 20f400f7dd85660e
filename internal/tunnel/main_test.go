package tunnel

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Those of the process, which wait for the next tunnel.
		goleak.IgnoreAnyFunction("github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay.(*poller).run"),
	)
}
