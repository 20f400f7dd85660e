package main

import (
	"crypto/tls"
	"net"
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
	peers := allPeers(options{caddy: "caddy"})
	ours, stock := peers[0], peers[1]
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
	cert, err := newCertificate()
	if err != nil {
		t.Fatal(err)
	}
	if err := checkCertificate(t, cert); err != nil {
		t.Error(err)
	}
}

// checkCertificate makes a TLS handshake over a pipe.
func checkCertificate(t *testing.T, cert *certificate) error {
	t.Helper()
	pair, err := tls.X509KeyPair(cert.cert, cert.key)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true})
	go func() { _ = server.HandshakeContext(t.Context()) }() // the client's error tells all
	return tls.Client(near, cert.clientConfig()).HandshakeContext(t.Context())
}
