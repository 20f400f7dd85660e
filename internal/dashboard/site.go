package dashboard

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// front is what stands in front of a handler.
type front struct {
	authenticated bool // on all ways to it
	named         bool // all ways to it ask for a host by its name
}

// inFront looks at all ways that lead to the handler. It cannot know what modules of
// others do, nor whether what authenticates one path does so for another: it goes by the
// order.
func (h *Handler) inFront() front {
	mod, err := h.ctx.AppIfConfigured("http")
	app, ok := mod.(*caddyhttp.App)
	if err != nil || !ok {
		return front{authenticated: true} // nobody comes by HTTP
	}
	found := search{of: h, found: front{authenticated: true, named: true}}
	for _, server := range app.Servers {
		found.look(server)
	}
	if found.ways == 0 || found.looks > mostLooks { // by a handler of somebody else, or nobody knows
		return front{}
	}
	return found.found
}

// mostLooks bounds how many lists of routes are looked at, as named routes may invoke
// themselves, and each other in more ways than there is time for.
const mostLooks = 10_000

// search looks for the ways to a handler.
type search struct {
	of     *Handler
	server *caddyhttp.Server
	ways   int
	looks  int // at lists of routes
	found  front
}

// look looks at all ways into a server. Those of its errors begin anew: whom a handler in
// front has refused comes there too.
func (s *search) look(server *caddyhttp.Server) {
	s.server = server
	var at front
	for _, policy := range server.TLSConnPolicies {
		at.authenticated = at.authenticated || policy.ClientAuthentication != nil
	}
	s.routes(server.Routes, at)
	if server.Errors != nil {
		s.routes(server.Errors.Routes, at)
	}
}

// routes looks at routes that are reached by what at tells. What authenticates in one of
// them counts for those after it, unless it is another site.
func (s *search) routes(all caddyhttp.RouteList, at front) {
	if s.looks++; s.looks > mostLooks {
		return
	}
	for i := range all {
		route := &all[i]
		here := at
		here.named = here.named || asksForHost(route.MatcherSets, isName)
		for _, handler := range route.Handlers {
			s.handler(handler, here)
			if authenticates(handler) {
				here.authenticated = true
				at.authenticated = at.authenticated || !route.Terminal && !asksForHost(route.MatcherSets, isAny)
			}
		}
	}
}

func (s *search) handler(handler caddyhttp.MiddlewareHandler, at front) {
	switch one := handler.(type) {
	case *Handler:
		if one == s.of {
			s.ways++
			s.found.authenticated = s.found.authenticated && at.authenticated
			s.found.named = s.found.named && at.named
		}
	case *caddyhttp.Subroute:
		s.routes(one.Routes, at)
	case *caddyhttp.Invoke:
		if route := s.server.NamedRoutes[one.Name]; route != nil {
			s.routes(caddyhttp.RouteList{*route}, at)
		}
	}
}

// authenticates reports whether a handler seems to refuse whom it does not know. What
// forward_auth makes is a proxy that does something with the answer.
func authenticates(handler caddyhttp.MiddlewareHandler) bool {
	switch one := handler.(type) {
	case *caddyauth.Authentication:
		return true
	case *reverseproxy.Handler:
		return len(one.HandleResponse) > 0
	case *caddyhttp.Subroute:
		for i := range one.Routes {
			for _, inner := range one.Routes[i].Handlers {
				if len(one.Routes[i].MatcherSets) == 0 && authenticates(inner) {
					return true
				}
			}
		}
	}
	return false
}

// asksForHost reports whether a request has to have one of some hosts, all of which are
// such as is wanted.
func asksForHost(sets caddyhttp.MatcherSets, wanted func(host string) bool) bool {
	asks := func(matcher any) bool {
		switch one := matcher.(type) {
		case caddyhttp.MatchHost:
			return all(one, wanted)
		case *caddyhttp.MatchHost:
			return all(*one, wanted)
		}
		return false
	}
	for _, set := range sets {
		if !slices.ContainsFunc(set, asks) {
			return false
		}
	}
	return len(sets) > 0
}

func all(hosts []string, wanted func(host string) bool) bool {
	return !slices.ContainsFunc(hosts, func(host string) bool { return !wanted(host) })
}

// isAny is for whatever a route asks for.
func isAny(string) bool { return true }

// isName reports whether a host of a matcher is a name, or names below one. What a
// placeholder stands for may be the request's, and a name of somebody else's ends with
// whatever a last * stands for.
func isName(host string) bool {
	return !strings.ContainsRune(host, '{') && !strings.HasSuffix(host, "*")
}
