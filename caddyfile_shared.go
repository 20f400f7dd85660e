package websocketproxy

import (
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// shared is what websocket_proxy has in common with reverse_proxy. It is
// parsed by reverse_proxy's own parser, from the same tokens, so that it means
// the same and errors come with their lines.
type shared struct {
	directive caddyfile.Token
	// addresses and transport go together: https in one enables TLS in the
	// other.
	addresses, transport []caddyfile.Token
	// options are all others.
	options []caddyfile.Token
}

func newShared(directive caddyfile.Token) *shared {
	return &shared{directive: directive}
}

// parse has reverse_proxy parse a directive with these arguments and options.
func (s *shared) parse(arguments, options []caddyfile.Token) (*reverseproxy.Handler, error) {
	tokens := append([]caddyfile.Token{s.directive}, arguments...)
	if len(options) > 0 {
		open, end := s.directive, options[len(options)-1]
		open.Text, end.Text = "{", "}"
		end.Line++
		tokens = append(tokens, open)
		tokens = append(tokens, options...)
		tokens = append(tokens, end)
	}
	rp := new(reverseproxy.Handler)
	return rp, rp.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens))
}

// parseUpstreams parses all addresses and the transport together.
func (s *shared) parseUpstreams() (*reverseproxy.Handler, error) {
	var arguments, options []caddyfile.Token
	last := s.directive
	for _, address := range s.addresses {
		newLine := address.Line != last.Line || address.File != last.File
		last = address
		if len(options) == 0 && !newLine {
			arguments = append(arguments, address)
			continue
		}
		if newLine {
			to := address
			to.Text = "to"
			options = append(options, to)
		}
		options = append(options, address)
	}
	return s.parse(arguments, append(options, s.transport...))
}

// upstream takes in an upstream's address and returns the addresses to dial
// that it stands for: several if it has a range of ports.
func (s *shared) upstream(address caddyfile.Token) ([]string, error) {
	// WebSocket URLs are HTTP URLs under another name (RFC 6455 section 3).
	if rest, ok := strings.CutPrefix(address.Text, "ws://"); ok {
		address.Text = "http://" + rest
	} else if rest, ok := strings.CutPrefix(address.Text, "wss://"); ok {
		address.Text = "https://" + rest
	}
	d := caddyfile.NewDispenser([]caddyfile.Token{address})
	d.Next()
	if strings.HasPrefix(address.Text, "h2c://") || strings.HasPrefix(address.Text, "unix+h2c/") {
		return nil, d.Errf("%s: a tunnel needs HTTP/1.1 to the upstream, not HTTP/2", address.Text)
	}
	one := newShared(address)
	rp, err := one.parse([]caddyfile.Token{address}, nil)
	if err != nil {
		return nil, err
	}
	s.addresses = append(s.addresses, address)
	dials := make([]string, len(rp.Upstreams))
	for i, up := range rp.Upstreams {
		dials[i] = up.Dial
	}
	return dials, nil
}

// finish parses what was collected and puts it into h.
func (s *shared) finish(h *Handler) error {
	rp, err := s.parseUpstreams()
	if err != nil {
		return err
	}
	h.TransportRaw = rp.TransportRaw
	if rp, err = s.parse(nil, s.options); err != nil {
		return err
	}
	h.Headers, h.TrustedProxies = rp.Headers, rp.TrustedProxies
	if lb := rp.LoadBalancing; lb != nil {
		if h.LoadBalancing == nil {
			h.LoadBalancing = new(LoadBalancing)
		}
		h.LoadBalancing.SelectionPolicyRaw = lb.SelectionPolicyRaw
		h.LoadBalancing.TryDuration, h.LoadBalancing.TryInterval = lb.TryDuration, lb.TryInterval
	}
	return nil
}

// sharedOption collects an option that reverse_proxy has too.
func (p *parser) sharedOption() error {
	segment := p.d.NextSegment()
	if len(segment) == 1 {
		return p.d.Errf("%s needs an argument", segment[0].Text)
	}
	p.shared.options = append(p.shared.options, segment...)
	return nil
}

// transport collects the transport, and refuses options that would be ignored
// or break tunnels.
func (p *parser) transport() error {
	segment := p.d.NextSegment()
	d := caddyfile.NewDispenser(segment)
	d.Next()
	if !d.NextArg() || d.Val() != "http" {
		return d.Err("transport is only http; a tunnel cannot use another one")
	}
	for d.NextBlock(0) {
		hint, refused := refusedInTransport[d.Val()]
		if refused && !(d.Val() == "versions" && onlyHTTP1(d)) {
			return d.Errf("%s is not an option of a tunnel's transport: %s", d.Val(), hint)
		}
		d.NextSegment() // what follows on its line, and its block
	}
	p.shared.transport = segment
	return nil
}

// onlyHTTP1 reports whether the versions option that d stands on names
// HTTP/1.1 only, which is what a tunnel does anyway.
func onlyHTTP1(d *caddyfile.Dispenser) bool {
	segment := d.NextSegment()
	return len(segment) == 2 && segment[1].Text == "1.1"
}

// refusedOptions are the options of reverse_proxy that have no meaning for
// tunnels, with what to write instead.
var refusedOptions = map[string]string{
	"dynamic": "upstream discovery is not available yet; " +
		"list the upstreams, or use a placeholder in an address",
	"lb_retry_match": "handshakes are alike, and are tried again only before an upstream " +
		"has answered; use lb_retries",
	"health_uri":              notYet,
	"health_path":             notYet,
	"health_upstream":         notYet,
	"health_port":             notYet,
	"health_interval":         notYet,
	"health_passes":           notYet,
	"health_fails":            notYet,
	"health_timeout":          notYet,
	"health_status":           notYet,
	"health_body":             notYet,
	"health_method":           notYet,
	"health_request_body":     notYet,
	"health_follow_redirects": notYet,
	"health_headers":          notYet,
	"fail_duration":           notYet,
	"max_fails":               notYet,
	"unhealthy_status":        "an answer other than 101 goes to the client; remove it",
	"unhealthy_latency":       "use handshake_timeout",
	"unhealthy_request_count": "use max_tunnels of an upstream",
	"flush_interval":          "every byte is passed on at once; remove it",
	"request_buffers":         "a handshake has no body; remove it",
	"response_buffers":        "frames are passed on as they come; remove it",
	"stream_buffer_size":      "buffers follow the traffic of each tunnel; remove it",
	"stream_timeout":          "use max_lifetime",
	"stream_close_delay":      "tunnels outlive reloads; remove it",
	"verbose_logs":            "each tunnel has a log line; use the debug global option for more",
	"proxy_status_name":       "a 101 has no Proxy-Status; remove it",
	"method":                  "a handshake is always a GET; remove it",
	"rewrite":                 "use the rewrite or uri directive",
	"handle_response":         "use the intercept directive",
	"replace_status":          "use the intercept directive",
	"copy_response":           "use the intercept directive",
	"copy_response_headers":   "use the intercept directive",
}

const notYet = "health checks are not available yet; " +
	"a handshake that fails early is tried on another upstream, see lb_retries"
