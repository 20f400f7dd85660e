package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// floorMode as the first of two arguments makes this program the floor that the second
// one names.
const floorMode = "-as-floor"

// Names of the floors: what the parts of a proxy cost that it cannot do without.
const (
	bareHijackName  = "net/http, echo"
	bareUpgradeName = "net/http, relay"
	bareRelayName   = "TCP relay"
	bareCaddyName   = "bare Caddy"
)

// floorPeers lists the floors, that of Caddy only if it was built.
func floorPeers(o options) []peer {
	self, err := os.Executable()
	if err != nil {
		return nil // so the backends won't start, which is reported
	}
	var list []peer
	for _, name := range []string{bareHijackName, bareUpgradeName, bareRelayName} {
		list = append(list, peer{
			name: name, binary: self, args: []string{floorMode, name}, template: floorTemplate, floor: true,
		})
	}
	if o.floor != "" {
		bare := caddyPeer(bareCaddyName, o.floor, "floor {{join .Upstreams}}")
		bare.floor = true
		list = append(list, bare)
	}
	return list
}

// wantsFloor tells whether the floor of Caddy is to be measured.
func (o *options) wantsFloor() bool {
	return !o.self && o.profiles == "" && o.peerFilter.MatchString(bareCaddyName) &&
		slices.ContainsFunc(selectMeasurements(o.planned(), o.rowFilter), func(m measurement) bool { return m.floors })
}

const floorTemplate = "floor.json"

// floorConfig is what floorTemplate says.
type floorConfig struct{ Plain, TLS, Cert, Key, Upstreams string }

// runFloor serves as one of the floors, with the configuration in the present folder.
func runFloor(ctx context.Context, name string) error {
	content, err := os.ReadFile(floorTemplate)
	if err != nil {
		return err
	}
	var config floorConfig
	if err := json.Unmarshal(content, &config); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(config.Cert, config.Key)
	if err != nil {
		return err
	}
	plain, err := new(net.ListenConfig).Listen(ctx, "tcp", config.Plain)
	if err != nil {
		return err
	}
	secure, err := new(net.ListenConfig).Listen(ctx, "tcp", config.TLS)
	if err != nil {
		return err
	}
	secure = tls.NewListener(secure, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})
	serve, err := floorServer(name, strings.Fields(config.Upstreams))
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	for _, listener := range []net.Listener{plain, secure} {
		go func() { failed <- serve(listener) }()
	}
	return <-failed // until the process is ended
}

// floorServer returns what serves a listener of the floor with that name.
func floorServer(name string, upstreams []string) (func(net.Listener) error, error) {
	tunnels := &bareTunnels{Upstreams: upstreams}
	switch name {
	case bareHijackName:
		return httpFloor(echoHere), nil
	case bareUpgradeName:
		return httpFloor(tunnels.upgrade), nil
	case bareRelayName:
		return tunnels.relayAll, nil
	default:
		return nil, fmt.Errorf("there is no floor %q", name)
	}
}

// httpFloor serves with net/http.
func httpFloor(handle func(http.ResponseWriter, *http.Request) error) func(net.Listener) error {
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := handle(w, r); err != nil {
				w.WriteHeader(http.StatusBadGateway)
			}
		}),
	}
	return server.Serve
}

// echoHere is the upstream itself.
func echoHere(w http.ResponseWriter, r *http.Request) error {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer closeQuietly(conn)
	if answerHandshake(conn, r.Header.Get("Sec-WebSocket-Key")) == nil {
		_ = serveEcho(conn, buffered.Reader) // the client reports how it ended
	}
	return nil
}

// relayAll takes connections to upstreams whatever they carry.
func (b *bareTunnels) relayAll(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			up, err := b.dial(context.Background())
			if err != nil {
				closeQuietly(conn)
				return
			}
			copyBoth(conn, conn, up)
		}()
	}
}
