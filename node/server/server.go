package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// The kubelet's defaults, for what a configuration leaves out.
const (
	defaultAddress    = "0.0.0.0"
	defaultHealthz    = "127.0.0.1"
	defaultTokenTTL   = 2 * time.Minute
	defaultAllowedTTL = 5 * time.Minute
	defaultDeniedTTL  = 30 * time.Second

	idleTimeout   = 90 * time.Second
	longest       = 4 * time.Hour // of one request: a log that is followed
	headerTimeout = 30 * time.Second
	maxHeader     = 1 << 20 // bytes
)

// Options are what a server is made of.
type Options struct {
	// Config is a KubeletConfiguration with its defaults filled in. enableServer, address, port, readOnlyPort, healthzPort, healthzBindAddress, tls*,
	// authentication, authorization, enableDebuggingHandlers, enableSystemLogHandler and enableProfilingHandler are read.
	Config    *kubeletconfig.KubeletConfiguration
	NodeName  string
	NodeIPs   []string // for a certificate that is made here
	CertDir   string   // where that is kept
	SystemLog string   // what /logs/ shows; empty: /var/log
	Pods      Pods
	Runtime   Runtime
	Reviews   Reviews // nil: there is no API server to ask
	// Statistics and the gatherers may be nil: then their paths answer 501.
	Statistics Statistics
	Metrics    Metrics
	Count      func(kind string, next http.Handler) http.Handler // counts requests; nil: nobody does
	Log        *slog.Logger
}

// Metrics are what the paths below /metrics show.
type Metrics struct {
	Own, Resource, Cadvisor, Probes prometheus.Gatherer
}

// Server answers on the kubelet's ports.
type Server struct {
	Options
	log    *slog.Logger
	system string
	tls    *tls.Config
	authn  *authenticator
	authz  *authorizer
}

// New checks the options and reads, or makes, the serving certificate.
func New(options Options) (*Server, error) {
	s := &Server{Options: options, log: options.Log, system: options.SystemLog}
	if s.Count == nil {
		s.Count = func(_ string, next http.Handler) http.Handler { return next }
	}
	if s.system == "" {
		s.system = "/var/log"
	}
	config := options.Config
	if err := s.authenticate(config); err != nil {
		return nil, err
	}
	if !enabled(config.EnableServer, true) || config.Port == 0 {
		return s, nil
	}
	pair, err := serving(config, options.CertDir, options.NodeName, options.NodeIPs)
	if err != nil {
		return nil, err
	}
	s.tls, err = tlsConfig(config, pair)
	return s, err
}

// authenticate sets up who may ask, as authentication and authorization of the configuration say.
func (s *Server) authenticate(config *kubeletconfig.KubeletConfiguration) error {
	who, may := config.Authentication, config.Authorization
	s.authn = &authenticator{
		anonymous: enabled(who.Anonymous.Enabled, false), ttl: or(who.Webhook.CacheTTL.Duration, defaultTokenTTL),
		tokens: newCache[authenticationv1.TokenReviewStatus](time.Now),
	}
	if who.X509.ClientCAFile != "" {
		s.authn.clientCA = &authorities{path: who.X509.ClientCAFile}
		if _, err := s.authn.clientCA.pool(); err != nil {
			return err
		}
	}
	if enabled(who.Webhook.Enabled, true) {
		if s.Reviews == nil {
			return fmt.Errorf("authentication.webhook.enabled wants an API server (--kubeconfig), and there is none: %w", errdefs.ErrInvalidArgument)
		}
		s.authn.reviews = s.Reviews
	}
	s.authz = &authorizer{
		node: s.NodeName, allowed: or(may.Webhook.CacheAuthorizedTTL.Duration, defaultAllowedTTL),
		denied: or(may.Webhook.CacheUnauthorizedTTL.Duration, defaultDeniedTTL), answers: newCache[bool](time.Now),
	}
	switch may.Mode {
	case kubeletconfig.KubeletAuthorizationModeAlwaysAllow:
	case kubeletconfig.KubeletAuthorizationModeWebhook, "":
		if s.Reviews == nil {
			return fmt.Errorf("authorization.mode Webhook wants an API server (--kubeconfig), and there is none: %w", errdefs.ErrInvalidArgument)
		}
		s.authz.reviews = s.Reviews
	default:
		return fmt.Errorf("authorization.mode %q: use Webhook or AlwaysAllow: %w", may.Mode, errdefs.ErrInvalidArgument)
	}
	return nil
}

func enabled(value *bool, otherwise bool) bool {
	if value == nil {
		return otherwise
	}
	return *value
}

func or(value, otherwise time.Duration) time.Duration {
	if value == 0 {
		return otherwise
	}
	return value
}

// Run listens on all ports that the configuration names, until the context ends or one of them fails.
func (s *Server) Run(ctx context.Context) error {
	config := s.Config
	address := config.Address
	if address == "" {
		address = defaultAddress
	}
	type port struct {
		name, address string
		number        int32
		handler       http.Handler
		tls           *tls.Config
	}
	var ports []port
	if s.tls != nil {
		ports = append(ports, port{"the API", address, config.Port, s.Count("readwrite", s.Handler()), s.tls})
	}
	if enabled(config.EnableServer, true) && config.ReadOnlyPort > 0 {
		ports = append(ports, port{"the read-only API", address, config.ReadOnlyPort, s.Count("readonly", s.ReadOnly()), nil})
	}
	if config.HealthzPort != nil && *config.HealthzPort > 0 {
		bind := config.HealthzBindAddress
		if bind == "" {
			bind = defaultHealthz
		}
		ports = append(ports, port{"/healthz", bind, *config.HealthzPort, s.Health(), nil})
	}
	listeners := make([]net.Listener, 0, len(ports))
	for _, p := range ports {
		var wants net.ListenConfig
		listener, err := wants.Listen(ctx, "tcp", net.JoinHostPort(p.address, strconv.Itoa(int(p.number))))
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return fmt.Errorf("listening for %s: %w", p.name, err)
		}
		listeners = append(listeners, listener)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var serving sync.WaitGroup
	for i, p := range ports {
		serving.Go(func() { cancel(s.serve(ctx, listeners[i], p.handler, p.tls)) })
	}
	<-ctx.Done()
	serving.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func (s *Server) serve(ctx context.Context, listener net.Listener, handler http.Handler, secure *tls.Config) error {
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: longest, WriteTimeout: longest, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		TLSConfig: secure, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // handshakes of port scanners
		BaseContext: func(net.Listener) context.Context { return base },
	}
	stop := context.AfterFunc(ctx, func() { end(); server.Close() })
	defer stop()
	defer end()
	var err error
	if secure != nil {
		err = server.ServeTLS(listener, "", "")
	} else {
		err = server.Serve(listener)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	}
	return nil
}
