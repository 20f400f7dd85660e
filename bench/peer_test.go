package main

import (
	"crypto/tls"
	"strings"
	"testing"
)

func TestEveryPeersConfigurationHoldsItsPortsAndUpstreams(t *testing.T) {
	s := settings{Plain: 1234, TLS: 1235, Upstreams: []string{"127.0.0.1:81", "127.0.0.1:82"}, Dir: "/folder"}
	for _, p := range allPeers(options{caddy: "caddy", floor: "floor"}) {
		t.Run(p.name, func(t *testing.T) {
			config, err := p.config(s)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{":1234", ":1235", "127.0.0.1:81", "127.0.0.1:82", "cert.pem"} {
				if p.template == "haproxy.cfg" && want == certFile {
					want = bothFile
				}
				if !strings.Contains(string(config), want) {
					t.Errorf("no %s in:\n%s", want, config)
				}
			}
		})
	}
}

func TestBothCaddyConfigurationsDifferOnlyByTheDirective(t *testing.T) {
	peers := allPeers(options{caddy: "caddy", before: "earlier"})
	ours, stock := peers[0], peers[1]
	if before := peers[len(peers)-1]; before.name != beforeName || before.balance != ours.balance {
		t.Errorf("an earlier build has %q, want %q", before.balance, ours.balance)
	}
	ours.balance, stock.balance = "same", "same"
	a, err := ours.config(settings{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := stock.config(settings{})
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Errorf("configurations differ:\n%s\n%s", a, b)
	}
}

func TestPeersWithoutABinaryAreListedAsMissing(t *testing.T) {
	found, missing := installed([]peer{{name: "shell", binary: "sh"}, {name: "nobody", binary: "no-such-binary"}})
	if len(found) != 1 || found[0].name != "shell" || len(missing) != 1 || missing[0] != "nobody" {
		t.Errorf("got %v and %v", found, missing)
	}
}

func TestCertificateIsAcceptedByItsOwnClientConfiguration(t *testing.T) {
	state := tlsOver(t, new(recorder)).ConnectionState()
	if state.Version != tls.VersionTLS13 || state.CurveID != tls.X25519 || state.DidResume {
		t.Errorf("got %+v, want what README.md says", state)
	}
}

// testCertificate makes a certificate, and what its server needs.
func testCertificate(t *testing.T) (*certificate, *tls.Config) {
	t.Helper()
	cert, err := newCertificate()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert.cert, cert.key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, &tls.Config{Certificates: []tls.Certificate{pair}}
}
