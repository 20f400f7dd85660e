package events

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// Join has events emitted for a configuration, by the module that ctx is for, from when
// Caddy says that all of its apps have been started: before, the events app cannot be
// asked, and what is being loaded may still fail. The caller has to have the outlet
// leave.
func (p *Process) Join(ctx caddy.Context) (*Outlet, error) {
	mod, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	app, ok := mod.(*caddyevents.App)
	if !ok {
		return nil, fmt.Errorf("the app events is a %T", mod)
	}
	emit := func(name string, data map[string]any) { app.Emit(ctx, name, data) }
	o := p.newOutlet(ctx.Logger(), app.ShouldEmit, emit)
	return o, app.On("started", o)
}

// Handle implements caddyevents.Handler, for the event that Caddy has started.
func (o *Outlet) Handle(context.Context, caddy.Event) error {
	o.open()
	return nil
}
