package settings

import (
	"fmt"
	"strconv"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/directive"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// ParseAddress parses an address without placeholders.
func ParseAddress(dial string) (upstream.Address, error) {
	if !printable.Is(dial) {
		// It would be shown in logs, lists and errors.
		return upstream.Address{}, fmt.Errorf("%q has control characters", dial)
	}
	addr, err := caddy.ParseNetworkAddress(dial)
	switch {
	case directive.HasPath(dial):
		return upstream.Address{}, fmt.Errorf("%s has a path; write host:port, and change paths with a rewrite handler", dial)
	case err != nil:
		return upstream.Address{}, err
	}
	switch addr.Network {
	case "tcp", "tcp4", "tcp6", "unix":
	default:
		return upstream.Address{}, fmt.Errorf("a tunnel needs tcp or unix, not %s", addr.Network)
	}
	if n := addr.PortRangeSize(); n != 1 {
		return upstream.Address{}, fmt.Errorf("%s names %d ports; an upstream is exactly one", dial, n)
	}
	if !addr.IsUnixNetwork() && addr.StartPort == 0 {
		return upstream.Address{}, fmt.Errorf("%s has no port", dial)
	}
	return upstream.Address{
		Network:  addr.Network,
		HostPort: addr.JoinHostPort(0),
		Hostname: addr.Host,
		Port:     strconv.Itoa(int(addr.StartPort)),
	}, nil
}
