package integration

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"

	gorilla "github.com/gorilla/websocket"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// TestListeners opens tunnels over the kinds of connections that Caddy's
// listeners give.
func TestListeners(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]string{
		"h1 only":       "servers {\nprotocols h1\n}",
		"h1 and h2c":    "servers {\nprotocols h1 h2c h2\n}",
		"http_redirect": "servers {$HTTPS} {\nlistener_wrappers {\nhttp_redirect\ntls\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			c := startCaddy(t, site(proxyTo(up.Addr), options))
			for _, scheme := range schemes {
				t.Run(scheme, func(t *testing.T) {
					client, upstream, _ := connect(t, c, up, scheme == "wss")
					checkHalfClose(t, client.Conn, upstream)
					client, upstream, _ = connect(t, c, up, scheme == "wss")
					checkHalfClose(t, upstream, client.Conn)
				})
			}
		})
	}
}

// TestUnixSockets has no TCP on either side.
func TestUnixSockets(t *testing.T) {
	t.Parallel()
	up := testbed.NewUnixUpstream(t, nil)
	dir, err := os.MkdirTemp("", "integration") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "caddy.sock")
	c := startCaddy(t, site("")+"\nhttp://unix.test {\nbind unix/"+socket+"\n"+proxyTo("unix/"+up.Addr)+"\n}")
	for _, upstreamFirst := range []bool{false, true} {
		client := testbed.Dial(t, socket)
		client.Host = "unix.test"
		client, upstream, resp := handshake(t, client, up)
		if upstreamFirst {
			checkHalfClose(t, upstream, client.Conn)
		} else {
			checkHalfClose(t, client.Conn, upstream)
		}
		line := c.log.waitOne(t, message("tunnel closed", "tunnel", tunnelID(resp)))
		if got := line.str("upstream"); got != "unix/"+up.Addr {
			t.Errorf("the log has upstream %q", got)
		}
	}
}

// TestGluedFrames sends frames together with the handshakes.
func TestGluedFrames(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]string{
		"h1 only": "servers {\nprotocols h1\n}",
		"default": "",
	} {
		t.Run(name, func(t *testing.T) {
			up := testbed.NewUpstream(t, nil)
			c := startCaddy(t, site(proxyTo(up.Addr), options))
			for _, scheme := range schemes {
				client := c.dial(t, scheme == "wss")
				first := string(testbed.NewFrame(testbed.Text, "glued to the request").Bytes(true))
				client.Send(testbed.HandshakeRequest("/", client.Host) + first)
				upstream := up.Next(t)
				req := upstream.ReadRequest()
				second := string(testbed.NewFrame(testbed.Text, "glued to the response").Bytes(false))
				upstream.Send(testbed.HandshakeResponse(req.Header.Get("Sec-WebSocket-Key")) + second)
				upstream.Expect(first)
				client.Response()
				client.Expect(second)
				checkHalfClose(t, client.Conn, upstream)
			}
		})
	}
}

// TestProxyProtocol lets a load balancer in front name the client by the PROXY
// protocol.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	const header = "PROXY TCP4 192.0.2.7 127.0.0.1 1234 80\r\n"
	up := testbed.NewUpstream(t, nil)
	c := startCaddy(t, site(proxyTo(up.Addr), `
		servers {$HTTP} {
			protocols h1
			listener_wrappers {
				proxy_protocol {
					allow 127.0.0.0/8
				}
			}
		}
		servers {$HTTPS} {
			listener_wrappers {
				proxy_protocol {
					allow 127.0.0.0/8
				}
				tls
			}
		}`))

	t.Run("ws", func(t *testing.T) {
		for _, upstreamFirst := range []bool{false, true} {
			client := c.dial(t, false)
			client.Send(header)
			_, upstream, resp := handshake(t, client, up)
			if upstreamFirst {
				checkHalfClose(t, upstream, client.Conn)
			} else {
				checkHalfClose(t, client.Conn, upstream)
			}
			checkClientIP(t, c, tunnelID(resp), "192.0.2.7")
		}
	})

	t.Run("wss", func(t *testing.T) {
		echoing := testbed.NewUpstream(t, testbed.Echo)
		c.reload(t, site(proxyTo(echoing.Addr), `
			servers {$HTTPS} {
				listener_wrappers {
					proxy_protocol {
						allow 127.0.0.0/8
					}
					tls
				}
			}`))
		d := gorilla.Dialer{
			HandshakeTimeout: timeout,
			NetDialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				if _, err := conn.Write([]byte(header)); err != nil {
					return nil, err
				}
				cfg := c.certs.ClientConfig()
				cfg.ServerName = "127.0.0.1"
				secured := tls.Client(conn, cfg)
				return secured, secured.HandshakeContext(ctx)
			},
		}
		conn, resp, err := d.DialContext(timeLimit(t), c.url("wss", "/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		client := &gorillaClient{Conn: conn, resp: resp}
		echoText(t, client, "hello")
		echo(t, client, gorilla.BinaryMessage, randomBytes(1<<20))
		client.close(t, 1000, "")
		checkClientIP(t, c, tunnelID(resp), "192.0.2.7")
	})
}

func checkClientIP(t *testing.T, c *caddy, tunnel, want string) {
	t.Helper()
	if line := c.log.waitOne(t, message("tunnel closed", "tunnel", tunnel)); line.str("client_ip") != want {
		t.Errorf("the log has %v, want client IP %s", line, want)
	}
}
