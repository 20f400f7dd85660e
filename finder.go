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

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/outside"
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
	pool     *upstream.Pool
	newSlot  func(dial string) *upstream.Server
	log      *zap.Logger
	// discovery asks in the background; nil if there are placeholders.
	discovery *discovery
	// runs tells that the configuration is in force. It is guarded by the
	// discovery's mu.
	runs bool
	// endpoints are what was found last. They are guarded by the discovery's mu.
	endpoints []*upstream.Endpoint
	index     int // in the pool
	// callee is for a source that is asked in handshakes.
	callee *outside.Callee
	slots  slots
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
	all := make(sources, len(raws))
	for i, raw := range raws {
		if all[i], err = h.loadSource(ctx, raw); err != nil {
			return fmt.Errorf("dynamic_upstreams: %w", err)
		}
		all[i].index = i
	}
	h.pool.Grow(len(all), all.areAsked())
	h.sources = all
	for _, s := range all {
		if len(s.placeholders) == 0 {
			discoveries.join(s)
		}
	}
	return nil
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

func (h *Handler) loadSource(ctx caddy.Context, raw json.RawMessage) (*finder, error) {
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
	s := &finder{
		module:       module,
		name:         name,
		config:       string(canonical),
		placeholders: requestPlaceholders(config),
		interval:     pollEvery(config),
		pool:         h.pool,
		newSlot:      h.dynamicSlot,
		callee:       newCallee(),
		log:          h.logger.With(zap.String("source", name)),
	}
	if len(s.placeholders) == 0 {
		s.lookUpInTime()
	}
	return s, nil
}

// lookUpInTime has Caddy's own sources look names up so early that what they know
// is never older than their refresh interval, though they are asked only now and
// then.
func (s *finder) lookUpInTime() {
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

// dynamicSlot makes the place of an upstream that was found.
func (h *Handler) dynamicSlot(dial string) *upstream.Server {
	return &upstream.Server{
		Weight:     defaultWeight,
		MaxTunnels: h.pool.MaxTunnels,
		Dial:       dial,
		Known:      guestUpstream(dial),
	}
}

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

// update makes places for what was found, and gives those up that were not. It
// reports whether some upstream is not configured any more. It is called with
// the discovery's mu held.
func (s *finder) update(found []*upstream.Endpoint) (orphaned bool) {
	gone := make(map[string]*upstream.Endpoint)
	for _, e := range s.endpoints {
		gone[e.Key()] = e
	}
	var endpoints []*upstream.Endpoint
	for _, f := range found {
		key := f.Key()
		e, stays := gone[key]
		if !stays || e.Dial != f.Dial {
			e = &upstream.Endpoint{}
			*e = *f
			e.Server = s.newSlot(f.Dial)
			e.Host = hosts.Name(key, s.name)
			s.pool.Join(e)
		} else {
			delete(gone, key)
		}
		endpoints = append(endpoints, e)
	}
	s.endpoints = endpoints
	s.pool.Set(s.index, endpoints)
	for _, e := range gone {
		s.pool.Leave(e)
		orphaned = hosts.Unname(e.Host, s.name, true) || orphaned
	}
	return orphaned
}

// endpointsOf returns those of the source's endpoints that have some addresses. It
// is called with the discovery's mu held.
func (s *finder) endpointsOf(addresses []string) []*upstream.Endpoint {
	return slices.DeleteFunc(slices.Clone(s.endpoints), func(e *upstream.Endpoint) bool {
		return !slices.Contains(addresses, e.Host.Address)
	})
}

// release gives up all places. Handshakes that come late may still choose them,
// as they may with configured upstreams.
func (s *finder) release() (orphaned bool) {
	for _, e := range s.endpoints {
		s.pool.Leave(e)
		orphaned = hosts.Unname(e.Host, s.name, false) || orphaned
	}
	return orphaned
}

// sources are those of a handler.
type sources []*finder

// areAsked reports whether some are asked in handshakes.
func (all sources) areAsked() bool {
	return slices.ContainsFunc(all, func(s *finder) bool { return len(s.placeholders) > 0 })
}

// arePending reports whether a source that is asked in the background has not
// answered yet.
func (all sources) arePending() bool {
	return slices.ContainsFunc(all, func(s *finder) bool {
		return s.discovery != nil && s.discovery.pending.Load()
	})
}

// start tells that the configuration of the handler is in force.
func (all sources) start() {
	for _, s := range all {
		if s.discovery != nil {
			s.discovery.start(s)
		}
	}
}

// release gives back what they have found. It reports whether some upstream is not
// configured any more.
func (all sources) release() (orphaned bool) {
	retire(all)
	for _, s := range all {
		if s.discovery != nil {
			orphaned = discoveries.leave(s) || orphaned
		}
	}
	return orphaned
}
