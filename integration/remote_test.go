package integration

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestFleetByRemoteAdministration asks Caddy's own remote admin endpoint, whose
// certificate each Caddy has signed for itself.
func TestFleetByRemoteAdministration(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo).Addr
	f := startFleet(t, 0, "")
	operator, viewer := testbed.NewCerts(t), testbed.NewCerts(t)
	var authorities []byte
	for range 2 {
		home := t.TempDir()
		c := prepareCaddy(t)
		c.run(t, site("handle /other {\nwebsocket_proxy "+sharedName+"\n}\n"+proxyTo(up, "name chat", "label user alice")),
			"HOME="+home, "XDG_DATA_HOME="+home)
		address := administerRemotely(t, c, operator, viewer)
		f.nodes, f.addresses = append(f.nodes, c), append(f.addresses, "https://"+address)
		root := filepath.Join(home, "caddy", "pki", "authorities", "local", "root.crt")
		eventually(t, "the authority is there", func() bool {
			text, err := os.ReadFile(root)
			authorities = append(authorities, text...)
			return err == nil
		})
	}
	authority := write(t, string(authorities))
	as := func(who *testbed.Certs, authority string) []string {
		return []string{"--cert", who.ClientCertFile, "--key", who.ClientKeyFile, "--cacert", authority}
	}
	f.flags = as(operator, authority)
	eventually(t, "the endpoints have their certificates", func() bool {
		code, _, _ := f.ask(t, nil, "list")
		return code == 0
	})
	f.operate(t, up)
	f.done(t, "drain", up)
	for _, c := range f.nodes {
		if state := c.upstreamState(t, up); state != "drain" {
			t.Errorf("the state is %s, want drain", state)
		}
	}

	for _, test := range []struct {
		what, says string
		flags      []string
		args       string
	}{
		{"who may only look", "2 of 2 nodes failed: " + f.addresses[0] + ": ", as(viewer, authority), "close --all"},
		{"a stranger", "did not answer: remote error: tls: ", as(testbed.NewCerts(t), authority), "list"},
		{"no certificate", "did not answer: remote error: tls: ", []string{"--cacert", authority}, "list"},
		{"another authority", "did not answer: tls: failed to verify certificate", as(operator, operator.CAFile), "list"},
		{"no key", "--cert and --key belong together", []string{"--cert", operator.ClientCertFile}, "list"},
		{"a key that does not fit", "--cert and --key: ", []string{"--cert", operator.ClientCertFile, "--key", viewer.ClientKeyFile}, "list"},
		{"no authority", "--cacert: ", []string{"--cacert", authority + "-"}, "list"},
	} {
		f.flags = test.flags
		code, stdout, stderr := f.ask(t, nil, strings.Fields(test.args)...)
		if code != 1 || stdout != "" || !strings.Contains(stderr, test.says) {
			t.Errorf("%s: code %d, %s%s; want 1 and %q", test.what, code, stdout, stderr, test.says)
		}
		expectNoAPI(t, test.what, stderr)
	}
	f.flags = as(viewer, authority)
	f.done(t, "list")
}

// administerRemotely gives a process a remote admin endpoint at which the operator may do
// everything, and the viewer look.
func administerRemotely(t *testing.T, c *caddy, operator, viewer *testbed.Certs) (address string) {
	t.Helper()
	var config struct {
		Admin   map[string]any            `json:"admin"`
		Apps    map[string]map[string]any `json:"apps"`
		Logging json.RawMessage           `json:"logging,omitempty"`
	}
	_, text, err := c.adminRequest(t, "GET", "/config/", "")
	if err != nil || json.Unmarshal([]byte(text), &config) != nil {
		t.Fatalf("the configuration is %s, %v", text, err)
	}
	_, port, _ := strings.Cut(testbed.FreeAddr(t), ":")
	config.Admin["identity"] = map[string]any{
		"identifiers": []string{"localhost"}, "issuers": []any{map[string]any{"module": "internal"}},
	}
	mayLook := map[string]any{"paths": []string{"/websocket_proxy/"}, "methods": []string{"GET"}}
	config.Admin["remote"] = map[string]any{
		"listen": "127.0.0.1:" + port,
		"access_control": []any{
			map[string]any{"public_keys": []string{derOf(t, operator.ClientCertFile)}},
			map[string]any{"public_keys": []string{derOf(t, viewer.ClientCertFile)}, "permissions": []any{mayLook}},
		},
	}
	config.Apps["pki"] = map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false}}}
	changed, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	loadJSON(t, c, string(changed))
	return "localhost:" + port
}

// derOf returns a certificate as Caddy's configuration wants it.
func derOf(tb testing.TB, file string) string {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		tb.Fatalf("%s has no certificate", file)
	}
	return base64.StdEncoding.EncodeToString(block.Bytes)
}
