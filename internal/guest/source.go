package guest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/discovery"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// PoolSource is the name of the source that is our own, and for reverse_proxy only.
const PoolSource = "websocket_proxy"

// Source is a source of upstreams, as a configuration has it.
type Source struct {
	// Name is that of the module.
	Name   string
	module reverseproxy.UpstreamSource
	// parse makes an address of one that the module has found.
	parse func(dial string) (upstream.Address, error)
	// key is the configuration, by which sources of other handlers and configurations
	// are the same.
	key string
	// placeholders are those of the configuration that depend on the request. If
	// there are any, the source is asked in handshakes.
	placeholders []string
	// interval is how often it is asked otherwise.
	interval time.Duration
}

// LoadSources loads the sources that one consists of, without asking them. Parse makes
// addresses of what they find. Errors begin with the path.
func LoadSources(
	ctx caddy.Context, path string, raw json.RawMessage, parse func(dial string) (upstream.Address, error),
) ([]*Source, error) {
	raws, err := SplitSources(path, raw)
	if err != nil {
		return nil, err
	}
	all := make([]*Source, len(raws))
	for i, raw := range raws {
		if all[i], err = loadSource(ctx, raw); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all[i].parse = parse
	}
	return all, nil
}

// Config has the source asked in the background, if it can be asked there. Its observer
// is o.
func (s *Source) Config(o discovery.Observer) discovery.Config {
	c := discovery.Config{Name: s.Name, Key: s.key, Interval: s.interval, Observer: o}
	if len(s.placeholders) == 0 {
		c.Lookup = s.lookUpForNobody
	}
	return c
}

// SplitSources returns the configurations of the sources that one consists of:
// those of `multi` are asked one by one, as it does not tell which of them fail,
// and what these have found last has to be kept. Errors begin with the path.
func SplitSources(path string, raw json.RawMessage) ([]json.RawMessage, error) {
	var config struct {
		Source  string            `json:"source"`
		Sources []json.RawMessage `json:"sources"`
	}
	if err := json.Unmarshal(raw, &struct {
		Source *string `json:"source"`
	}{&config.Source}); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch config.Source {
	case "":
		return nil, fmt.Errorf("%s: source: is empty; name a module, such as a or srv", path)
	case PoolSource:
		return nil, fmt.Errorf("%s: %s is for reverse_proxy; give this handler the upstreams themselves", path, PoolSource)
	case "multi":
	default:
		return []json.RawMessage{raw}, nil
	}
	if err := caddy.StrictUnmarshalJSON(raw, &config); err != nil {
		return nil, fmt.Errorf("%s: source multi: %w", path, err)
	}
	var all []json.RawMessage
	for i, raw := range config.Sources {
		some, err := SplitSources(fmt.Sprintf("%s.sources[%d]", path, i), raw)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: multi has no sources; give it some, such as a or srv", path)
	}
	return all, nil
}

func loadSource(ctx caddy.Context, raw json.RawMessage) (*Source, error) {
	// With every key in its place, and each once.
	var config map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&config); err != nil {
		return nil, err
	}
	canonical, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	named := struct {
		Raw json.RawMessage `caddy:"namespace=http.reverse_proxy.upstreams inline_key=source"`
	}{raw}
	mod, err := ctx.LoadModule(&named, "Raw")
	if err != nil {
		return nil, err
	}
	module, ok := mod.(reverseproxy.UpstreamSource)
	if !ok {
		return nil, fmt.Errorf("%T does not find upstreams", mod)
	}
	name, _ := config["source"].(string)
	s := &Source{
		Name:         name,
		module:       module,
		key:          string(canonical),
		placeholders: RequestPlaceholders(config),
		interval:     pollEvery(config),
	}
	if len(s.placeholders) == 0 {
		s.lookUpInTime()
	}
	return s, nil
}

// lookUpInTime has Caddy's own sources look names up so early that what they know
// is never older than their refresh interval, though they are asked only now and
// then.
func (s *Source) lookUpInTime() {
	earlier := func(refresh caddy.Duration) caddy.Duration {
		return max(refresh-caddy.Duration(s.interval), 1) // zero would mean the default
	}
	switch m := s.module.(type) {
	case *reverseproxy.AUpstreams:
		m.Refresh = earlier(m.Refresh)
	case *reverseproxy.SRVUpstreams:
		m.Refresh = earlier(m.Refresh)
	}
}

// minPollInterval and maxPollInterval bound how often a source is asked in the
// background.
const (
	minPollInterval = 100 * time.Millisecond
	maxPollInterval = time.Second
)

// pollEvery is how often a source is asked. Those that look something up keep it
// for their own refresh interval.
func pollEvery(config map[string]any) time.Duration {
	raw, _ := json.Marshal(config["refresh"]) // which was JSON before
	var refresh caddy.Duration
	if err := json.Unmarshal(raw, &refresh); err != nil || refresh <= 0 {
		return maxPollInterval
	}
	return min(max(time.Duration(refresh), minPollInterval), maxPollInterval)
}
