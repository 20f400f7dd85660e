package integration

import (
	"strings"
	"testing"
)

// TestOdditiesAreLogged has Caddy validate what can be meant so but hardly is.
func TestOdditiesAreLogged(t *testing.T) {
	t.Parallel()
	const (
		private = "trusted_proxies static private_ranges\n"
		limit   = "max_tunnels_per_client 5"
	)
	for name, test := range map[string]struct {
		options, server string
		want            string // setting
	}{
		"nothing odd":        {limit, "", ""},
		"not strict":         {limit, private, "limits.max_tunnels_per_client"},
		"strict":             {limit, private + "trusted_proxies_strict", ""},
		"another field":      {limit, private + "client_ip_headers X-Real-IP", ""},
		"no limit":           {"", private, ""},
		"a size of 64 bytes": {"max_message_size 64", "", "limits.max_message_size"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := write(t, site(proxyTo("127.0.0.1:9000", "name chat", test.options), "servers {\n"+test.server+"\n}"))
			code, _, stderr := runCaddy(t, "validate", "--adapter", "caddyfile", "--config", config)
			var lines []string
			for line := range strings.Lines(stderr) {
				if strings.Contains(line, "rather a mistake") {
					lines = append(lines, line)
				}
			}
			switch {
			case code != 0:
				t.Errorf("code %d: %s", code, stderr)
			case test.want == "" && len(lines) > 0:
				t.Errorf("got %q", lines)
			case test.want == "":
			case len(lines) == 0 || !strings.Contains(lines[0], `"setting": "`+test.want) && !strings.Contains(lines[0], `"setting":"`+test.want) ||
				!strings.Contains(lines[0], "chat"):
				t.Errorf("got %q, want a line about %s", lines, test.want)
			}
		})
	}
}
