package main

import (
	"embed"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// ourName is the peer that all others are compared with.
const ourName = "websocket_proxy"

// Names of the peers that goals are about.
const (
	stockName   = "reverse_proxy"
	haproxyName = "HAProxy"
	beforeName  = "before"
)

//go:embed templates
var templateFiles embed.FS

// peer is a proxy that can be measured.
type peer struct {
	name string
	// binary is a path, or a name to be found in PATH or the sbin folders.
	binary string
	// args are the command's arguments. It runs in the foreground, in the
	// folder that its configuration and certificate are in.
	args []string
	// template is the configuration's template and file name.
	template string
	// balance is the directive of Caddy's configurations.
	balance string
	// hasAdmin tells that it is a Caddy, whose insides can be asked for.
	hasAdmin bool
	// floor tells that it is no proxy for anybody, but the least that would do.
	floor bool
	// rate is the most connections or requests a second, and burst how many more may
	// wait; 0 for no limit.
	rate, burst int
	// proxies is how many processes of it share the clients.
	proxies int
	// protocols are those that carry many tunnels in one connection.
	protocols []string
	// versionArgs make the binary print its version; none if it is this program.
	versionArgs []string
}

// settings are what configuration templates may use.
type settings struct {
	Plain, TLS, Streams, Admin int // ports
	Upstreams                  []string
	Dir                        string
	Processors                 int
	Balance                    string
	Rate, Burst                int
	Proxies                    int
}

// allPeers lists every peer in the order of the table's columns, our module
// first. With self, a second reverse_proxy takes its place. Behind them are the floors, and
// an earlier build of the module is the last one, if there is one.
func allPeers(o options) []peer {
	caddy := o.caddy
	ours := caddyPeer(ourName, caddy, ourDirective)
	if o.self {
		ours.balance = stockDirective
	}
	peers := []peer{
		ours,
		caddyPeer(stockName, caddy, stockDirective),
		{
			name: nginxName, binary: "nginx", template: "nginx.conf",
			args:        []string{"-e", "stderr", "-p", ".", "-c", "nginx.conf"},
			versionArgs: []string{"-v"},
		},
		{
			name: haproxyName, binary: "haproxy", template: "haproxy.cfg",
			args:        []string{"-db", "-f", "haproxy.cfg"},
			versionArgs: []string{"-v"},
			protocols:   []string{http2Name},
		},
		{
			name: "Apache", binary: "apache2", template: "apache.conf",
			args:        []string{"-D", "FOREGROUND", "-d", ".", "-f", "apache.conf"},
			versionArgs: []string{"-v"},
		},
	}
	if !o.self {
		peers = append(peers, floorPeers(o)...)
	}
	if o.before != "" {
		peers = append(peers, caddyPeer(beforeName, o.before, ourDirective))
	}
	return peers
}

// ourDirective is the module with its defaults, but that answers of an upstream that
// cannot serve are not settled for.
const ourDirective = "websocket_proxy {{join .Upstreams}} {\n\t\tlb_retry_status 503\n\t}"

// stockDirective is the stock handler with the policy that is our default.
const stockDirective = "reverse_proxy {{join .Upstreams}} {\n\t\tlb_policy least_conn\n\t}"

func caddyPeer(name, binary, balance string) peer {
	return peer{
		name: name, binary: binary, template: "Caddyfile", balance: balance,
		args:        []string{"run", "--config", "Caddyfile", "--adapter", "caddyfile"},
		versionArgs: []string{"version"},
		hasAdmin:    true,
		protocols:   []string{http2Name, http3Name},
	}
}

// installed divides peers into those whose binary is there, with their full
// paths, and the names of the others.
func installed(peers []peer) (found []peer, missing []string) {
	for _, p := range peers {
		path, err := lookPath(p.binary)
		if err != nil {
			missing = append(missing, p.name)
			continue
		}
		p.binary = path
		found = append(found, p)
	}
	return found, missing
}

// lookPath finds a binary also where Debian keeps servers, which an ordinary
// user's PATH lacks.
func lookPath(name string) (string, error) {
	var path string
	var err error
	for _, dir := range []string{"", "/usr/sbin", "/usr/local/sbin"} {
		if path, err = exec.LookPath(filepath.Join(dir, name)); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", err
}

// version returns the first line of what the binary says about itself.
func (p peer) version() string {
	out, err := exec.Command(p.binary, p.versionArgs...).CombinedOutput() //nolint:gosec,noctx // from allPeers; ends at once
	if err != nil {
		return "unknown version"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// config renders the peer's configuration.
func (p peer) config(s settings) ([]byte, error) {
	s.Processors = runtime.NumCPU()
	s.Rate, s.Burst, s.Proxies = p.rate, p.burst, max(1, p.proxies)
	balance, err := render(p.balance, s)
	if err != nil {
		return nil, fmt.Errorf("rendering the directive of %s: %w", p.name, err)
	}
	s.Balance = string(balance)
	text, err := templateFiles.ReadFile("templates/" + p.template)
	if err != nil {
		return nil, err
	}
	config, err := render(string(text), s)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", p.template, err)
	}
	return config, nil
}
