package verify

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const dropIn = "caddy.service.d/websockets.conf"

// unit is what matters here of the unit in Caddy's packages.
const unit = `[Unit]
Description=Caddy
After=network.target network-online.target
Requires=network-online.target

[Service]
Type=notify
ExecStart=/bin/true run --environ --config /etc/caddy/Caddyfile
TimeoutStopSec=5s
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
`

func TestSystemdDropIn(t *testing.T) {
	text := string(read(t, "examples/systemd/"+dropIn))
	if said := analyze(t, text); said != "" {
		t.Errorf("systemd-analyze says:\n%s", said)
	}
	// So that silence means something.
	if said := analyze(t, text+"LimitNOFILES=1\n"); !strings.Contains(said, dropIn) {
		t.Errorf("of a drop-in with a mistake, systemd-analyze says: %q", said)
	}
}

// analyze returns what systemd-analyze has to say about the unit with a drop-in.
func analyze(tb testing.TB, text string) string {
	tb.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatal(err)
		}
		tb.Skipf("there is no systemd: %v", err)
	}
	dir := tb.TempDir()
	for name, text := range map[string]string{"caddy.service": unit, dropIn: text} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	cmd := exec.CommandContext(tb.Context(), tool, "verify", "--man=no", filepath.Join(dir, "caddy.service"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return err.Error() + "\n" + string(out)
	}
	return string(out)
}
