package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Kinds of probes.
const (
	HTTP      = "http"
	WebSocket = "websocket"
	TCP       = "tcp"
)

// Probe is one probe. It may need several connections, one after another.
type Probe struct {
	Kind    string
	Timeout time.Duration // for all of it
	// Connect opens a connection to the target, with TLS if that is Secure, and Dialer
	// exchanges requests and answers over it.
	Connect func(ctx context.Context) (net.Conn, error)
	Dialer  *dial.Dialer
	Target  upstream.Address
	Secure  bool

	Request  Request
	Replacer Replacer // for what the request has

	// Answered is told the header of an answer; nil: nobody wants to know.
	Answered func(http.Header)
	// Send is what an agent gets.
	Send string

	// What follows is for http only.

	FollowRedirects bool
	Expected        func(status int) bool
	Body            *regexp.Regexp // nil: any
	MaxSize         int64          // bytes of the body that are looked at; zero or less: all

	// doing says what takes so long when it takes too long.
	doing string
}

// Run makes the probe and returns what is wrong with the upstream, if anything.
func (p *Probe) Run(ctx context.Context) error {
	return p.within(ctx, map[string]func(context.Context) error{
		HTTP:      p.http,
		WebSocket: p.webSocket,
		TCP:       p.tcp,
	}[p.Kind])
}

// within has a probe take no longer than it may.
func (p *Probe) within(ctx context.Context, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	err := probe(ctx)
	if err != nil && dial.IsOver(ctx) {
		return fmt.Errorf("%s: took longer than %v", p.doing, p.Timeout)
	}
	return err
}

// dial connects to the target. Until the connection is closed, which only the
// function returned must do, it does not work beyond the end of ctx.
func (p *Probe) dial(ctx context.Context) (conn net.Conn, closeConn func(), err error) {
	p.doing = "dialing"
	conn, err = p.Connect(ctx)
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
func (p *Probe) tcp(ctx context.Context) error {
	_, closeConn, err := p.dial(ctx)
	if err != nil {
		return err
	}
	closeConn()
	return nil
}

// http sends a request and judges the answer, as reverse_proxy does.
func (p *Probe) http(ctx context.Context) error {
	r, err := p.Request.to(ctx, p.Target, p.Secure, p.Replacer)
	if err != nil {
		return err
	}
	c := &http.Client{Transport: p}
	if !p.FollowRedirects {
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
	if !p.Expected(resp.StatusCode) {
		return fmt.Errorf("the answer has status %d", resp.StatusCode)
	}
	if p.Body == nil {
		return nil
	}
	p.doing = "reading the body"
	var limited io.Reader = resp.Body
	if p.MaxSize > 0 {
		limited = io.LimitReader(limited, p.MaxSize)
	}
	body, err := io.ReadAll(limited)
	if err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	if !p.Body.Match(body) {
		return errors.New("the body is not what is expected")
	}
	return nil
}

// RoundTrip implements http.RoundTripper. Each request has a connection of its
// own, to the target whatever its URL says, which is how reverse_proxy follows
// redirects.
func (p *Probe) RoundTrip(r *http.Request) (*http.Response, error) {
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
func (p *Probe) exchange(r *http.Request, offer *handshake.Offer) (a *dial.Answer, closeAnswer func(), err error) {
	conn, closeConn, err := p.dial(r.Context())
	if err != nil {
		return nil, nil, err
	}
	p.doing = "waiting for the answer"
	a, err = p.Dialer.Exchange(r.Context(), conn, r, offer, nil)
	if err != nil {
		closeConn()
		return nil, nil, err
	}
	if p.Answered != nil {
		p.Answered(a.Header)
	}
	return a, func() {
		closeConn()
		a.Discard()
	}, nil
}
