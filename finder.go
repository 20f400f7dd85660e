package websocketproxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/discovery"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// poolSourceName is the name of this module's own source.
const poolSourceName = "websocket_proxy"

// finder is a source of upstreams in a handler's configuration.
type finder struct {
	module reverseproxy.UpstreamSource
	// name is that of the module, and config the configuration, by which sources
	// of other handlers and configurations are the same.
	name, config string
	// placeholders are those of the configuration that depend on the request. If
	// there are any, the source is asked in handshakes.
	placeholders []string
	// interval is how often it is asked else.
	interval time.Duration
	log      *zap.Logger
}

// provisionSources loads the sources of upstreams, without asking them.
func (h *Handler) provisionSources(ctx caddy.Context) error {
	if len(h.DynamicUpstreamsRaw) == 0 {
		return nil
	}
	raws, err := splitSources("dynamic_upstreams", h.DynamicUpstreamsRaw)
	if err != nil {
		return err
	}
	finders, configs := make([]*finder, len(raws)), make([]discovery.Config, len(raws))
	for i, raw := range raws {
		f, err := loadSource(ctx, raw, h.logger)
		if err != nil {
			return fmt.Errorf("dynamic_upstreams: %w", err)
		}
		finders[i], configs[i] = f, f.discoveryConfig()
	}
	h.finders, h.sources = finders, discoveries.Add(h.pool, h.dynamicSlot, configs)
	return nil
}

// discoveryConfig has the source asked in the background, if it can be asked there.
func (f *finder) discoveryConfig() discovery.Config {
	c := discovery.Config{Name: f.name, Key: f.config, Interval: f.interval, Observer: f}
	if len(f.placeholders) == 0 {
		c.Lookup = f.lookUpForNobody
	}
	return c
}

// splitSources returns the configurations of the sources that one consists of:
// those of `multi` are asked one by one, as it does not tell which of them fail,
// and what these have found last has to be kept. Errors begin with the path.
func splitSources(path string, raw json.RawMessage) ([]json.RawMessage, error) {
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
	case poolSourceName:
		return nil, fmt.Errorf("%s: %s is for reverse_proxy; give this handler the upstreams themselves", path, poolSourceName)
	case "multi":
	default:
		return []json.RawMessage{raw}, nil
	}
	if err := caddy.StrictUnmarshalJSON(raw, &config); err != nil {
		return nil, fmt.Errorf("%s: source multi: %w", path, err)
	}
	var all []json.RawMessage
	for i, raw := range config.Sources {
		some, err := splitSources(fmt.Sprintf("%s.sources[%d]", path, i), raw)
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

func loadSource(ctx caddy.Context, raw json.RawMessage, log *zap.Logger) (*finder, error) {
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
	guest := struct {
		Raw json.RawMessage `caddy:"namespace=http.reverse_proxy.upstreams inline_key=source"`
	}{raw}
	mod, err := ctx.LoadModule(&guest, "Raw")
	if err != nil {
		return nil, err
	}
	module, ok := mod.(reverseproxy.UpstreamSource)
	if !ok {
		return nil, fmt.Errorf("%T does not find upstreams", mod)
	}
	name, _ := config["source"].(string)
	f := &finder{
		module:       module,
		name:         name,
		config:       string(canonical),
		placeholders: requestPlaceholders(config),
		interval:     pollEvery(config),
		log:          log.With(zap.String("source", name)),
	}
	if len(f.placeholders) == 0 {
		f.lookUpInTime()
	}
	return f, nil
}

// lookUpInTime has Caddy's own sources look names up so early that what they know
// is never older than their refresh interval, though they are asked only now and
// then.
func (f *finder) lookUpInTime() {
	earlier := func(refresh caddy.Duration) caddy.Duration {
		return max(refresh-caddy.Duration(f.interval), 1) // zero would mean the default
	}
	switch m := f.module.(type) {
	case *reverseproxy.AUpstreams:
		m.Refresh = earlier(m.Refresh)
	case *reverseproxy.SRVUpstreams:
		m.Refresh = earlier(m.Refresh)
	}
}

// dynamicSlot makes the place of an upstream that was found.
func (h *Handler) dynamicSlot(dial string) *upstream.Server {
	return &upstream.Server{
		Weight:     defaultWeight,
		MaxTunnels: h.pool.MaxTunnels,
		Dial:       dial,
		Known:      guestUpstream(dial),
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

// requestPlaceholders returns the placeholders in the strings of a configuration
// that nothing but a request can give a value, sorted and each once.
func requestPlaceholders(config any) []string {
	var found []string
	repl := caddy.NewEmptyReplacer()
	repl.Map(func(name string) (any, bool) {
		if !isGlobalPlaceholder(name) {
			found = append(found, name)
		}
		return "", true
	})
	var search func(any)
	search = func(v any) {
		switch v := v.(type) {
		case string:
			repl.ReplaceAll(v, "")
		case []any:
			for _, element := range v {
				search(element)
			}
		case map[string]any:
			for _, element := range v {
				search(element)
			}
		}
	}
	search(config)
	slices.Sort(found)
	return slices.Compact(found)
}

// isGlobalPlaceholder reports whether a placeholder has a value without a
// request. No file is read for that.
func isGlobalPlaceholder(name string) bool {
	if strings.HasPrefix(name, "file.") {
		return true
	}
	_, known := caddy.NewReplacer().Get(name)
	return known
}
