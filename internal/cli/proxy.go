package cli

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	texttemplate "text/template"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/demo"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

// ProxyCommand returns `caddy websocket-proxy`.
func ProxyCommand() caddycmd.Command {
	return caddycmd.Command{
		Name: "websocket-proxy",
		Usage: `[--from <addr>] [--to <addr>] [--demo] [--change-host-header] [--insecure] [--internal-certs] ` +
			`[--disable-redirects] [--header-up "Field: value"] [--header-down "Field: value"] [--access-log] [--debug]`,
		Short: "A quick and production-ready WebSocket proxy",
		Long: `
Proxies WebSockets from the --from address to the --to address. Several --to
addresses share the tunnels: each new one goes to the upstream with the fewest.

Unless otherwise specified in the addresses, the --from address is assumed to be
HTTPS if a hostname is given, and the --to address to be HTTP. Requests that are
not WebSocket handshakes are answered with 426 Upgrade Required.

--demo brings its own upstreams, which echo messages, and serves a page to try
them in a browser, and at /dashboard one that shows what happens, with some clients
that come and go for 15 minutes. Its default for --from is http://localhost:8080, on
the loopback interface only; then the dashboard can change something, too.

The other flags are those of the reverse-proxy command:
  --change-host-header sets the Host header of the handshake to the address of
    the upstream, instead of passing the client's on.
  --insecure disables verification of the upstream's TLS certificate.
    WARNING: THIS DISABLES SECURITY.
  --internal-certs issues the certificate for --from from the internal CA.
  --disable-redirects avoids binding to the HTTP port.
  --header-up sets a header field of the handshake sent to the upstream.
  --header-down sets a header field of the answer sent to the client.
`,
		CobraFunc: func(cmd *cobra.Command) {
			flags := cmd.Flags()
			flags.StringP("from", "f", "localhost", "Address on which to receive traffic")
			flags.StringSliceP("to", "t", nil, "Upstream address(es) to which tunnels should be opened")
			flags.Bool("demo", false, "Bring an echo upstream and a page to try it with")
			flags.BoolP("change-host-header", "c", false, "Set the Host header to the address of the upstream")
			flags.Bool("insecure", false, "Disable TLS verification of the upstream (WARNING: DISABLES SECURITY)")
			flags.BoolP("internal-certs", "i", false, "Use internal CA for issuing certs")
			flags.BoolP("disable-redirects", "r", false, "Disable HTTP->HTTPS redirects")
			flags.StringArrayP("header-up", "H", nil, `Set a request header field (format: "Field: value")`)
			flags.StringArrayP("header-down", "d", nil, `Set a response header field (format: "Field: value")`)
			flags.Bool("access-log", false, "Enable the access log")
			flags.BoolP("debug", "v", false, "Enable verbose debug logs")
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(runProxy)
		},
	}
}

// proxy is what the websocket-proxy command was asked to do: the data of
// commandCaddyfile.
type proxy struct {
	From, Bind         string
	To, Up, Down       []string
	Rest               string // where requests go that are not handshakes; empty: nowhere
	Insecure, Internal bool
	NoRedirects        bool
	AccessLog, Debug   bool
	// Dashboard serves the page, and Actions lets it change something.
	Dashboard, Actions bool
}

// proxyCaddyfile is the configuration that the command runs: what a person
// would write.
var proxyCaddyfile = texttemplate.Must(texttemplate.New("").Funcs(texttemplate.FuncMap{"quote": quote}).Parse(`{
	admin off
	persist_config off
{{- if .NoRedirects}}
	auto_https disable_redirects
{{- end}}
{{- if .Debug}}
	debug
{{- end}}
}

{{quote .From}} {
{{- if .Bind}}
	bind {{.Bind}}
{{- end}}
{{- if .Internal}}
	tls internal
{{- end}}
{{- if .AccessLog}}
	log
{{- end}}
{{- if .Dashboard}}
	handle_path /dashboard* {
		websocket_dashboard {{if .Actions}}actions{{end}}
	}
{{- end}}
	websocket_proxy {{range .To}}{{quote .}} {{end}}{
{{- if not .Rest}}
		require_upgrade
{{- end}}
{{- range .Up}}
		header_up {{.}}
{{- end}}
{{- range .Down}}
		header_down {{.}}
{{- end}}
{{- if .Insecure}}
		transport http {
			tls_insecure_skip_verify
		}
{{- end}}
	}
{{- if .Rest}}
	reverse_proxy {{.Rest}}
{{- end}}
}
`))

// quote makes s one Caddyfile token.
func quote(s string) string {
	return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"`
}

func runProxy(flags caddycmd.Flags) (int, error) {
	caddy.TrapSignals()
	cmd, err := parseProxy(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if flags.Bool("demo") {
		if err := cmd.addDemo(flags.Changed("from")); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
	}
	if len(cmd.To) == 0 {
		return caddy.ExitCodeFailedStartup, errors.New("--to is required, or --demo to try it out")
	}
	config, err := cmd.config()
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if err := caddy.Load(config, true); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	caddy.Log().Info("proxying WebSockets", zap.String("from", cmd.From), zap.Strings("to", cmd.To))
	if flags.Bool("demo") {
		caddy.Log().Info("open this page in a browser", zap.String("url", cmd.From),
			zap.String("dashboard", cmd.From+"/dashboard/"))
		if address, plain := strings.CutPrefix(cmd.From, "http://"); plain { // else its certificate may be trusted by nobody
			demo.StartTraffic("ws://" + address + "/echo")
		}
	}
	select {}
}

func parseProxy(flags caddycmd.Flags) (*proxy, error) {
	cmd := &proxy{
		From:        flags.String("from"),
		Insecure:    flags.Bool("insecure"),
		Internal:    flags.Bool("internal-certs"),
		NoRedirects: flags.Bool("disable-redirects"),
		AccessLog:   flags.Bool("access-log"),
		Debug:       flags.Bool("debug"),
	}
	var err error
	if cmd.To, err = flags.GetStringSlice("to"); err != nil {
		return nil, err
	}
	if flags.Bool("change-host-header") {
		cmd.Up = append(cmd.Up, "Host {upstream_hostport}")
	}
	for name, ops := range map[string]*[]string{"header-up": &cmd.Up, "header-down": &cmd.Down} {
		values, err := flags.GetStringArray(name)
		if err != nil {
			return nil, err
		}
		for _, value := range values {
			op, err := headerOp(value)
			if err != nil {
				return nil, fmt.Errorf("--%s: %w", name, err)
			}
			*ops = append(*ops, op)
		}
	}
	return cmd, nil
}

// headerOp turns the flag's form of a header field into the Caddyfile's.
func headerOp(field string) (string, error) {
	name, value, found := strings.Cut(field, ":")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !found || !handshake.IsToken(name) || value == "" || strings.HasSuffix(value, `\`) {
		return "", fmt.Errorf(`invalid format %q (expecting "Field: value")`, field)
	}
	return http.CanonicalHeaderKey(name) + " " + quote(value), nil
}

// demoUpstreams is how many upstreams the demonstration has.
const demoUpstreams = 3

// addDemo starts the demonstration's upstreams, which live as long as the
// process.
func (cmd *proxy) addDemo(fromGiven bool) error {
	if len(cmd.To) > 0 {
		return errors.New("--demo brings its own upstream; leave out --to")
	}
	for range demoUpstreams {
		up, err := demo.Start()
		if err != nil {
			return fmt.Errorf("starting the demo's upstreams: %w", err)
		}
		cmd.To, cmd.Rest = append(cmd.To, up.Addr), up.Addr
	}
	cmd.Dashboard = true
	if !fromGiven {
		cmd.From, cmd.Bind, cmd.Actions = "http://localhost:8080", "127.0.0.1", true
	}
	return nil
}

// config returns the configuration for the command as JSON.
func (cmd *proxy) config() ([]byte, error) {
	var text strings.Builder
	if err := proxyCaddyfile.Execute(&text, cmd); err != nil {
		return nil, err
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text.String()), map[string]any{
		"filename": "websocket-proxy",
	})
	return config, err
}
