package cgroups

// filter is package devicefilter's, which this package's own tests cannot import: it imports them.
var filter DeviceFilter

// UseFilter is for the tests outside of the package.
func UseFilter(f DeviceFilter) { filter = f }
