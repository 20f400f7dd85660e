package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// prober is what a configuration gives a checker to probe one upstream.
type prober struct {
	check    *activeCheck
	checker  *checker
	upstream string           // the upstream's address, with its network
	target   upstream.Address // what is dialed
	most     int              // tunnels that the upstream may have
	problem  error            // why there is no target
	// ctx ends when the configuration is unloaded.
	ctx    context.Context
	cancel context.CancelFunc
	busy   sync.WaitGroup // a probe that uses it
}

// probe is one probe. It may need several connections, one after another.
type probe struct {
	*prober

	repl *caddy.Replacer
	// doing says what takes so long when it takes too long.
	doing string
}

// probe makes a probe and returns what is wrong with the upstream, if anything.
func (p *prober) probe() error {
	if p.problem != nil {
		return p.problem
	}
	timeout := time.Duration(p.check.settings.Timeout)
	ctx, cancel := context.WithTimeout(p.ctx, timeout)
	defer cancel()
	// There is no client that the PROXY protocol could name.
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{
		proxyProtocolVar: reverseproxy.ProxyProtocolInfo{AddrPort: netip.MustParseAddrPort("127.0.0.1:0")},
	})
	one := &probe{prober: p, repl: caddy.NewReplacer()}
	setUpstream(one.repl, p.target, 0, p.most, 0)
	one.repl.Set("http.reverse_proxy.active.target_upstream", p.upstream)
	err := map[string]func(context.Context) error{
		checkHTTP:      one.http,
		checkWebSocket: one.webSocket,
		checkTCP:       one.tcp,
	}[p.check.settings.Kind](ctx)
	if err != nil && dial.IsOver(ctx) {
		return fmt.Errorf("%s: took longer than %v", one.doing, timeout)
	}
	return err
}

// dial connects to the target. Until the connection is closed, which only the
// function returned must do, it does not work beyond the end of ctx.
func (p *probe) dial(ctx context.Context) (conn net.Conn, closeConn func(), err error) {
	p.doing = "dialing"
	conn, err = p.check.transport.dial(ctx, targetOf(p.target), p.repl)
	if err != nil {
		return nil, nil, fmt.Errorf("dialing: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() {
		stop()
		_ = conn.Close() // nothing more is expected of it
	}, nil
}

// tcp only connects.
func (p *probe) tcp(ctx context.Context) error {
	_, closeConn, err := p.dial(ctx)
	if err != nil {
		return err
	}
	closeConn()
	return nil
}

// request makes the request of a probe, as reverse_proxy makes it.
func (p *probe) request(ctx context.Context) (*http.Request, error) {
	settings := &p.check.settings
	u := *p.check.uri
	u.Scheme, u.Host, u.Fragment = "http", p.target.HostPort, ""
	if p.check.transport.useTLS(targetOf(p.target)) {
		u.Scheme = "https"
	}
	if p.target.Network == "unix" {
		u.Host = "localhost" // a path is no host
	}
	var body io.Reader
	if settings.Body != "" {
		body = strings.NewReader(p.repl.ReplaceKnown(settings.Body, ""))
	}
	r, err := http.NewRequestWithContext(ctx, settings.Method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	for name, values := range settings.Headers {
		name = p.repl.ReplaceAll(name, "")
		if name == "Host" {
			r.Host = p.repl.ReplaceAll(values[0], "")
			continue
		}
		for _, value := range values {
			r.Header.Add(name, p.repl.ReplaceKnown(value, ""))
		}
	}
	return r, nil
}

// http sends a request and judges the answer, as reverse_proxy does.
func (p *probe) http(ctx context.Context) error {
	r, err := p.request(ctx)
	if err != nil {
		return err
	}
	settings := &p.check.settings
	c := &http.Client{Transport: p}
	if !settings.FollowRedirects {
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	resp, err := c.Do(r)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // the URL is known
		}
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing more is expected of it
	if !caddyhttp.StatusCodeMatches(resp.StatusCode, settings.ExpectStatus) {
		return fmt.Errorf("the answer has status %d", resp.StatusCode)
	}
	if p.check.body == nil {
		return nil
	}
	p.doing = "reading the body"
	var limited io.Reader = resp.Body
	if settings.MaxSize > 0 {
		limited = io.LimitReader(limited, settings.MaxSize)
	}
	body, err := io.ReadAll(limited)
	if err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	if !p.check.body.Match(body) {
		return errors.New("the body is not what is expected")
	}
	return nil
}

// RoundTrip implements http.RoundTripper. Each request has a connection of its
// own, to the target whatever its URL says, which is how reverse_proxy follows
// redirects.
func (p *probe) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header.Get("Connection") == "" {
		closing := *r
		closing.Close = true
		r = &closing
	}
	a, closeAnswer, err := p.exchange(r, nil)
	if err != nil {
		return nil, err
	}
	// The body's own Close would read what is left of it.
	a.Body = lastBody{a.Body, closeAnswer}
	return a.Response, nil
}

// lastBody is an answer's body whose end is that of its connection.
type lastBody struct {
	io.Reader
	end func()
}

func (b lastBody) Close() error {
	b.end()
	return nil
}

// exchange dials, sends the request and reads the answer's header. closeAnswer has to
// be called, also when the answer was detached.
func (p *probe) exchange(r *http.Request, offer *handshake.Offer) (a *dial.Answer, closeAnswer func(), err error) {
	conn, closeConn, err := p.dial(r.Context())
	if err != nil {
		return nil, nil, err
	}
	p.doing = "waiting for the answer"
	a, err = p.check.transport.Exchange(r.Context(), conn, r, offer, nil)
	if err != nil {
		closeConn()
		return nil, nil, err
	}
	return a, func() {
		closeConn()
		a.Discard()
	}, nil
}
