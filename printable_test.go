package websocketproxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
)

func TestAddressesWithControlCharactersAreRefused(t *testing.T) {
	for _, address := range []string{
		"10.0.0.1\x1b[31m:80", "10.0.0.1:80\n", "\x7fhost:80", "host\u009b31m:80", "host\x9b:80", "ho\u202est:80",
		"ho\u200bst:80", "unix//run/\x07.sock", "[fe80::1%\x1b[0m]:80", "tcp4/a\rb:80",
	} {
		if e, err := settings.ParseAddress(address); err == nil {
			t.Errorf("%q is taken for %s", address, e.Key())
		} else if !printable.Is(err.Error()) || !strings.Contains(err.Error(), "has control characters") {
			t.Errorf("%q: %q", address, err)
		}
	}
	for _, address := range []string{"münchen.example:80", "unix//run/my app.sock", "[fe80::1%eth0]:80"} {
		if _, err := settings.ParseAddress(address); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
	err := provisionJSON(t, fmt.Sprintf(`{"upstreams": [{"dial": %q}]}`, "10.0.0.1\u009b:80"))
	if err == nil || !strings.Contains(err.Error(), "has control characters") {
		t.Errorf("the configuration with such an address: %v", err)
	}
}
