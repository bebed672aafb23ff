// Package config reads the daemon's configuration: a TOML file whose every key has a default.
//
// It holds the keys, their defaults, their words in the commented default file, and the checks that need nothing but the
// values themselves. What a key does belongs to the room that it is given to; flags belong to cmd/shimd.
package config

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

//go:embed default.toml
var defaultFile string

// DefaultFile is the commented default configuration, as `shimd config default` prints it.
func DefaultFile() string { return defaultFile }

// Config is the whole configuration.
type Config struct {
	Root     string `toml:"root"`
	State    string `toml:"state"`
	Listen   string `toml:"listen"`
	LogLevel string `toml:"log_level"`

	Image    Image              `toml:"image"`
	Cgroup   Cgroup             `toml:"cgroup"`
	Network  Network            `toml:"network"`
	Security Security           `toml:"security"`
	Logs     Logs               `toml:"logs"`
	CDI      CDI                `toml:"cdi"`
	Stream   Stream             `toml:"streaming"`
	Metrics  Metrics            `toml:"metrics"`
	Tracing  Tracing            `toml:"tracing"`
	Runtimes map[string]Runtime `toml:"runtimes"`
	Limits   Limits             `toml:"limits"`
	Debug    Debug              `toml:"debug"`
}

// Image configures the image store.
type Image struct {
	ConfigPath             string   `toml:"config_path"`
	Pinned                 []string `toml:"pinned"`
	MaxConcurrentDownloads int      `toml:"max_concurrent_downloads"`
}

// Cgroup configures control groups.
type Cgroup struct {
	Driver string `toml:"driver"`
	Parent string `toml:"parent"`
}

// Network configures pod networks.
type Network struct {
	CNIConfDir string   `toml:"cni_conf_dir"`
	CNIBinDirs []string `toml:"cni_bin_dirs"`
	PodCIDR    string   `toml:"pod_cidr"`
	Bridge     string   `toml:"bridge"`
	MTU        int      `toml:"mtu"`
	Masquerade bool     `toml:"masquerade"`
}

// PodCIDRFromClient as Network.PodCIDR makes pods wait until the client has sent theirs.
const PodCIDRFromClient = "client"

// Security configures profiles.
type Security struct {
	SeccompRoot string `toml:"seccomp_root"`
}

// Logs configures container logs.
type Logs struct {
	MaxLineBytes int `toml:"max_line_bytes"`
}

// CDI configures the Container Device Interface.
type CDI struct {
	SpecDirs []string `toml:"spec_dirs"`
}

// Stream configures the server of exec, attach and port forward.
type Stream struct {
	Address string `toml:"address"`
}

// Metrics configures the Prometheus endpoint.
type Metrics struct {
	Address string `toml:"address"`
}

// Tracing configures OpenTelemetry.
type Tracing struct {
	Endpoint string `toml:"endpoint"`
	Insecure bool   `toml:"insecure"`
}

// Runtime is an external OCI runtime.
type Runtime struct {
	Path string `toml:"path"`
}

// Limits are defaults for containers.
type Limits struct {
	Pids int64 `toml:"pids"`
}

// Debug is for tests of the daemon itself.
type Debug struct {
	// Failpoints are "STEP=error", "STEP=error:N" for the first N times only, or "STEP=exit", for the steps that /metrics names.
	Failpoints []string `toml:"failpoints"`
}

// Load reads the file at path over the defaults; "" reads only the defaults. The values are not checked yet: flags come first.
func Load(path string) (Config, error) {
	var cfg Config
	if err := decode(defaultFile, &cfg); err != nil {
		return cfg, fmt.Errorf("default configuration: %w", err)
	}
	if path == "" {
		return cfg, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return cfg, fmt.Errorf("reading the configuration: %w", err)
	}
	if err := decode(string(data), &cfg); err != nil {
		return cfg, fmt.Errorf("configuration %s: %w", path, err)
	}
	return cfg, nil
}

func decode(text string, cfg *Config) error {
	decoder := toml.NewDecoder(strings.NewReader(text)).DisallowUnknownFields()
	err := decoder.Decode(cfg)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		return fmt.Errorf("unknown key:\n%s", unknown.String())
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		row, _ := wrong.Position()
		where := fmt.Sprintf("line %d", row)
		if key := strings.Join(wrong.Key(), "."); key != "" {
			where += ", key " + key
		}
		return fmt.Errorf("%s: %w", where, err)
	}
	return err
}

// failpointAction is what a failpoint may do.
var failpointAction = regexp.MustCompile(`^(exit|error(:[1-9][0-9]{0,8})?)$`)

// handlerName is what a RuntimeClass handler may be called.
var handlerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

// Check tells every value that makes no sense, by its key.
func (c Config) Check() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s: %w", key, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument))
	}
	for key, path := range map[string]string{
		"root": c.Root, "state": c.State, "image.config_path": c.Image.ConfigPath,
		"network.cni_conf_dir": c.Network.CNIConfDir, "security.seccomp_root": c.Security.SeccompRoot,
	} {
		optional := key == "image.config_path" || key == "network.cni_conf_dir"
		if path == "" && optional {
			continue
		}
		if !filepath.IsAbs(path) {
			bad(key, "%q is not an absolute path", path)
		}
	}
	if filepath.Clean(c.Root) == filepath.Clean(c.State) {
		bad("state", "%q is the root directory too", c.State)
	}
	if socket, ok := strings.CutPrefix(c.Listen, "unix://"); !ok || !filepath.IsAbs(socket) {
		bad("listen", "%q is not unix:// and an absolute path", c.Listen)
	} else if len(socket) > 107 {
		bad("listen", "the path %q is longer than the 107 bytes that a socket may have", socket)
	}
	if !oneOf(c.LogLevel, "debug", "info", "warn", "error") {
		bad("log_level", "%q is not debug, info, warn or error", c.LogLevel)
	}
	if !oneOf(c.Cgroup.Driver, "auto", "cgroupfs", "systemd") {
		bad("cgroup.driver", "%q is not auto, cgroupfs or systemd", c.Cgroup.Driver)
	}
	if c.Image.MaxConcurrentDownloads < 0 {
		bad("image.max_concurrent_downloads", "%d is negative", c.Image.MaxConcurrentDownloads)
	}
	if c.Network.MTU < 0 || c.Network.MTU > 65535 {
		bad("network.mtu", "%d is not between 0 and 65535", c.Network.MTU)
	}
	if c.Logs.MaxLineBytes < 0 || c.Logs.MaxLineBytes > 131072 {
		bad("logs.max_line_bytes", "%d is not between 0 and 131072", c.Logs.MaxLineBytes)
	}
	c.checkAddresses(bad)
	c.checkRuntimes(bad)
	return errors.Join(errs...)
}

func (c Config) checkAddresses(bad func(key, format string, args ...any)) {
	if c.Network.PodCIDR != "" && c.Network.PodCIDR != PodCIDRFromClient {
		for cidr := range strings.SplitSeq(c.Network.PodCIDR, ",") {
			if _, err := netip.ParsePrefix(strings.TrimSpace(cidr)); err != nil {
				bad("network.pod_cidr", "%q is not an address and a length, such as 10.88.0.0/16, nor %q", cidr, PodCIDRFromClient)
			}
		}
	}
	for key, address := range map[string]string{"streaming.address": c.Stream.Address, "metrics.address": c.Metrics.Address} {
		if address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			bad(key, "%v", err)
		}
	}
}

func (c Config) checkRuntimes(bad func(key, format string, args ...any)) {
	for name, runtime := range c.Runtimes {
		key := "runtimes." + name
		if !handlerName.MatchString(name) {
			bad(key, "a handler's name is of lower-case letters, digits, '-' and '.'")
		}
		if !filepath.IsAbs(runtime.Path) {
			bad(key+".path", "%q is not an absolute path", runtime.Path)
		}
	}
	for _, failpoint := range c.Debug.Failpoints {
		step, action, ok := strings.Cut(failpoint, "=")
		if !ok || step == "" || !failpointAction.MatchString(action) {
			bad("debug.failpoints", "%q is not STEP=error, STEP=error:TIMES or STEP=exit", failpoint)
		}
	}
}

func oneOf(value string, allowed ...string) bool {
	for _, a := range allowed {
		if value == a {
			return true
		}
	}
	return false
}
