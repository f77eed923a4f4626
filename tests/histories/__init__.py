"""The checker of transactional histories: correct ones pass, and each anomaly planted in one is found."""
